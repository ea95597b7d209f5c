package otelcol_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

func TestFreePort(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 50 {
		port, err := otelcol.FreePort()
		require.NoError(t, err)
		assert.False(t, seen[port], "each port is given once")
		seen[port] = true
	}
	addr, err := otelcol.FreeAddr()
	require.NoError(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
}

func TestGoroutineCount(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/empty/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/wrong/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello\n")) })
	s := httptest.NewServer(mux)
	defer s.Close()
	count, err := otelcol.GoroutineCount(t.Context(), s.URL)
	require.NoError(t, err)
	assert.Positive(t, count)
	_, err = otelcol.GoroutineCount(t.Context(), s.URL+"/empty/")
	require.ErrorContains(t, err, "200 OK")
	_, err = otelcol.GoroutineCount(t.Context(), s.URL+"/wrong/")
	require.ErrorContains(t, err, `unexpected answer "hello\n"`)
	_, err = otelcol.GoroutineCount(t.Context(), "http://127.0.0.1:1")
	require.ErrorContains(t, err, "counting goroutines")
	_, err = otelcol.GoroutineCount(t.Context(), ":")
	require.Error(t, err)
}
