package opampuri_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		uri     string
		want    opampuri.URI
		wantErr string
	}{
		{uri: "opamp:"},
		{uri: "opamp:edge", want: opampuri.URI{Name: "edge"}},
		{uri: "opamp:?state_dir=/x/y", want: opampuri.URI{StateDir: "/x/y"}},
		{uri: "opamp:edge?state_dir=/x=y", want: opampuri.URI{Name: "edge", StateDir: "/x=y"}},
		{uri: "opamp:?guard=true", want: opampuri.URI{Guard: true}},
		{uri: "opamp:?guard=false"},
		{uri: "opamp:edge?guard=true&state_dir=/x", want: opampuri.URI{Name: "edge", StateDir: "/x", Guard: true}},
		{uri: "opamp:?state_dir=/x&guard=true", want: opampuri.URI{StateDir: "/x", Guard: true}},
		{uri: "file:x", wantErr: `"file:x" uri is not supported by "opamp" provider`},
		{uri: "opamp:?state_dir=x", wantErr: `state_dir "x" is relative`},
		{uri: "opamp:?state_dir=", wantErr: "state_dir is empty"},
		{uri: "opamp:?", wantErr: `unknown parameter ""`},
		{uri: "opamp:?statedir=/x", wantErr: `unknown parameter "statedir"`},
		{uri: "opamp:?state_dir=/x&state_dir=/y", wantErr: `parameter "state_dir" is given twice`},
		{uri: "opamp:?guard", wantErr: `guard is "": give true or false`},
		{uri: "opamp:?guard=yes", wantErr: `guard is "yes": give true or false`},
		{uri: "opamp:?guard=true&guard=true", wantErr: `parameter "guard" is given twice`},
		{uri: "opamp:#own_metrics/endpoint", want: opampuri.URI{Value: "own_metrics/endpoint"}},
		{uri: "opamp:edge#own_logs/tls/ca_file", want: opampuri.URI{Name: "edge", Value: "own_logs/tls/ca_file"}},
		{uri: "opamp:#other_connections/b/headers/X-Key", want: opampuri.URI{Value: "other_connections/b/headers/X-Key"}},
		{uri: "opamp:#other_connections/B-1_x.y/endpoint", want: opampuri.URI{Value: "other_connections/B-1_x.y/endpoint"}},
		{uri: "opamp:#other_connections/" + strings.Repeat("x", 64) + "/endpoint", want: opampuri.URI{Value: "other_connections/" + strings.Repeat("x", 64) + "/endpoint"}},
		{uri: "opamp:#other_connections/endpoint/endpoint", want: opampuri.URI{Value: "other_connections/endpoint/endpoint"}},
		{uri: "opamp:#other_connections/b/other/a/b", want: opampuri.URI{Value: "other_connections/b/other/a/b"}},
		{uri: "opamp:#other_connections/b/proxy/url:-", want: opampuri.URI{Value: "other_connections/b/proxy/url", Default: new("")}},
		{
			uri:  "opamp:#other_connections/b/endpoint:-https://h:4318/a?b=c#d:-e",
			want: opampuri.URI{Value: "other_connections/b/endpoint", Default: new("https://h:4318/a?b=c#d:-e")},
		},
		{uri: "opamp:#", wantErr: `the value "" begins with none of own_metrics`},
		{uri: "opamp:#x/y", wantErr: `the value "x/y" begins with none of own_metrics`},
		{uri: "opamp:#:-x", wantErr: `the value "" begins with none of own_metrics`},
		{uri: "opamp:#own_metrics", wantErr: `there is no field ""`},
		{uri: "opamp:#own_metrics/", wantErr: `there is no field ""`},
		{uri: "opamp:#own_metrics/b/endpoint", wantErr: `there is no field "b/endpoint"`},
		{uri: "opamp:#own_metrics/tls/ca", wantErr: `tls has no field "ca": there are ca_file, cert_file`},
		{uri: "opamp:#own_metrics/headers", wantErr: `there is no field "headers"`},
		{uri: "opamp:#own_metrics/headers/", wantErr: `"" is no name of a header`},
		{uri: "opamp:#own_metrics/headers/a/b", wantErr: `"a/b" is no name of a header`},
		{uri: "opamp:#own_metrics/other/", wantErr: `there is no field "other/"`},
		{uri: "opamp:#other_connections/b", wantErr: `"other_connections/b" needs a name and a field: write other_connections/<name>/endpoint`},
		{uri: "opamp:#other_connections//endpoint", wantErr: "needs a name and a field"},
		{uri: "opamp:#other_connections/otlp/backend/endpoint", wantErr: `there is no field "backend/endpoint": there are endpoint, headers/<key>, tls/<field>, proxy/url and other/<key>; the name of a connection must have 1 to 64 characters, which are letters, digits, ".", "_" or "-", and be neither "." nor ".."`},
		{uri: "opamp:#other_connections/a b/endpoint", wantErr: `the value "other_connections/a b/endpoint": "a b" is no name of a connection: the name of a connection must have 1 to 64 characters`},
		{uri: "opamp:#other_connections/é/endpoint", wantErr: `"é" is no name of a connection`},
		{uri: "opamp:#other_connections/./endpoint", wantErr: `"." is no name of a connection`},
		{uri: "opamp:#other_connections/../endpoint", wantErr: `".." is no name of a connection`},
		{uri: "opamp:#other_connections/" + strings.Repeat("x", 65) + "/endpoint", wantErr: "is no name of a connection"},
		{uri: "opamp:#other_connections/b/token", wantErr: `there is no field "token"`},
		{uri: "opamp:edge?state_dir=/x#own_logs/endpoint", wantErr: `parameters belong to the opamp: URI of --config, not to that of a value: use "opamp:edge#own_logs/endpoint"`},
	} {
		t.Run(tt.uri, func(t *testing.T) {
			t.Parallel()
			got, err := opampuri.Parse(tt.uri)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestField(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"own_metrics/endpoint":                    "endpoint",
		"own_traces/headers/X-Key":                "headers/X-Key",
		"other_connections/b/other/x":             "other/x",
		"other_connections/b/tls/ca_file":         "tls/ca_file",
		"other_connections/otlp/b/tls/ca_file":    "",
		"other_connections/b":                     "",
		"own_metrics/b/endpoint":                  "",
		"other_connections/b/tls/min_version/1.2": "",
	} {
		assert.Equal(t, want, opampuri.Field(path), path)
	}
}

func TestCheckRefusesAValue(t *testing.T) {
	t.Parallel()
	main := opampuri.URI{Name: "edge"}
	require.NoError(t, opampuri.Check([]opampuri.URI{main}))
	require.EqualError(t, opampuri.Check([]opampuri.URI{main, {Name: "edge", Value: "own_logs/endpoint"}}),
		"--config=opamp:edge#own_logs/endpoint is a value and no configuration: write ${opamp:edge#own_logs/endpoint} where it belongs in a configuration")
}

func FuzzParse(f *testing.F) {
	f.Add("opamp:edge?state_dir=/x")
	f.Add("opamp:edge#other_connections/b/headers/X-Key:-none")
	f.Add("opamp:#own_metrics/tls/ca_file")
	f.Add("opamp:#own_logs/endpoint:-")
	f.Add("opamp:?guard=true&state_dir=/x")
	f.Fuzz(func(t *testing.T, uri string) {
		u, err := opampuri.Parse(uri)
		if err != nil {
			require.Zero(t, u)
		}
		if u.StateDir != "" {
			require.True(t, filepath.IsAbs(u.StateDir))
		}
		if u.Default != nil {
			require.NotEmpty(t, u.Value)
		}
		if u.Value != "" {
			require.Empty(t, u.StateDir)
			require.NotEmpty(t, opampuri.Field(u.Value))
			want := "opamp:" + u.Name + "#" + u.Value
			if u.Default != nil {
				want += ":-" + *u.Default
			}
			require.Equal(t, want, uri)
		}
	})
}
