package owntelemetry_test

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
)

func TestLoops(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		endpoint, listening string
		want                bool
	}{
		{"http://localhost:4318/v1/logs", "localhost:4318", true},
		{"http://LOCALHOST.:4318/v1/logs", "127.0.0.1:4318", true},
		{"http://127.0.0.1:4318/v1/logs", "0.0.0.0:4318", true},
		{"http://[::1]:4318/v1/logs", "[::]:4318", true},
		{"http://[::ffff:127.0.0.1]:4318/v1/logs", ":4318", true},
		{"http://0.0.0.0:4318/v1/logs", "127.0.0.1:4318", true},
		{"https://localhost/v1/logs", "localhost:443", true},
		{"http://localhost/v1/logs", "localhost:80", true},
		{"http://192.0.2.1:4318/v1/logs", "192.0.2.1:4318", true},
		{"http://localhost:4319/v1/logs", "localhost:4318", false},
		{"http://192.0.2.1:4318/v1/logs", "0.0.0.0:4318", false},
		{"http://192.0.2.1:4318/v1/logs", "127.0.0.1:4318", false},
		{"https://backend:4318/v1/logs", "0.0.0.0:4318", false},
		{"http://localhost:4318/v1/logs", "no address", false},
		{"://", "localhost:4318", false},
		{"", "localhost:4318", false},
	} {
		assert.Equal(t, tt.want, owntelemetry.Loops(tt.endpoint, []string{"localhost:1", tt.listening}), "%s to %s", tt.endpoint, tt.listening)
		assert.False(t, owntelemetry.Loops(tt.endpoint, nil))
	}
}

func TestLoopsKnowsItsOwnNames(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	require.NoError(t, err)
	assert.True(t, owntelemetry.Loops("http://"+name+":4318/v1/logs", []string{"0.0.0.0:4318"}))
	own, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, address := range own {
		ip, _, err := net.ParseCIDR(address.String())
		require.NoError(t, err)
		at := net.JoinHostPort(ip.String(), "4318")
		assert.True(t, owntelemetry.Loops("http://"+at+"/v1/logs", []string{":4318"}), at)
	}
}

func TestListening(t *testing.T) {
	t.Parallel()
	assert.ElementsMatch(t, []string{"localhost:4318", "0.0.0.0:1"}, owntelemetry.Listening(map[string]any{"receivers": map[string]any{
		"otlp":      map[string]any{"protocols": map[string]any{"http": nil, "grpc": map[string]any{"endpoint": "x:2"}}},
		"otlp/b":    map[string]any{"protocols": map[string]any{"http": map[string]any{"endpoint": "0.0.0.0:1"}}},
		"otlp/c":    map[string]any{"protocols": map[string]any{"grpc": nil}},
		"otlp/d":    nil,
		"otlpother": map[string]any{"protocols": map[string]any{"http": nil}},
	}}))
	assert.Empty(t, owntelemetry.Listening(nil))
}
