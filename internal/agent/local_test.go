package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/featuregate"
)

func TestLocalExtensions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	a := write("a.yaml", "service: {extensions: [opamp, zpages]}")
	b := write("b.yaml", "receivers: {}")
	c := write("c.yaml", "service::extensions: [opamp, ' basicauth ']")
	reference := write("d.yaml", "service: {extensions: '${env:X}'}")
	for _, tt := range []struct {
		name  string
		args  []string
		want  []string
		known bool
	}{
		{"one file", []string{"--config=" + a, "--config=opamp:"}, []string{"opamp", "zpages"}, true},
		{"a layer without a list changes nothing", []string{"--config", a, "--config", "file:" + b}, []string{"opamp", "zpages"}, true},
		{"the last list wins", []string{"--config=" + a, "--config=" + c}, []string{"opamp", "basicauth"}, true},
		{"inline", []string{"--config=yaml:service::extensions: [x]"}, []string{"x"}, true},
		{"a layer from elsewhere", []string{"--config=" + a, "--config=https://x"}, []string{"opamp", "zpages"}, false},
		{"a list from elsewhere", []string{"--config=" + reference}, nil, false},
		{"a file that is not there", []string{"--config=" + dir + "/none"}, nil, false},
		{"no layer", []string{"--config=opamp:"}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, known := localExtensions(tt.args)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.known, known)
		})
	}
}

// With the Collector's gate that appends to lists, all layers enable extensions.
func TestLocalExtensionsWhereListsAreAppended(t *testing.T) {
	const gate = "confmap.enableMergeAppendOption"
	require.NoError(t, featuregate.GlobalRegistry().Set(gate, true))
	t.Cleanup(func() { assert.NoError(t, featuregate.GlobalRegistry().Set(gate, false)) })
	got, known := localExtensions([]string{"--config=yaml:service::extensions: [opamp, zpages]", "--config=yaml:service::extensions: [zpages, x]"})
	assert.Equal(t, []string{"opamp", "zpages", "x"}, got)
	assert.True(t, known)
}

// The block of an extension that authenticates for the one that authenticates this
// agent is as important as either.
func TestProtected(t *testing.T) {
	t.Parallel()
	const layer = `yaml:
extensions:
  opamp: {server: {ws: {endpoint: x, auth: headers_setter}}, policy: {require: [{component: zpages}]}}
  headers_setter: {additional_auth: oauth2client/x, headers: [{key: a, value: b}]}
  oauth2client/x: {client_id: headers_setter, x: [basicauth]}
  bearertokenauth: {}
  zpages:
  basicauth:
`
	args := []string{"--config=" + layer, "--config=opamp:"}
	assert.Equal(t, []string{"opamp", "headers_setter", "oauth2client/x", "basicauth"}, protected("", args, []string{"opamp", "headers_setter"}))
	assert.Equal(t, []string{"opamp/edge"}, protected("edge", args, nil))
}
