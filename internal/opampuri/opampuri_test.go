package opampuri_test

import (
	"path/filepath"
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
		{uri: "opamp:#x/y", wantErr: `"#x/y" are not supported yet`},
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

func FuzzParse(f *testing.F) {
	f.Add("opamp:edge?state_dir=/x")
	f.Add("opamp:?guard=true&state_dir=/x")
	f.Fuzz(func(t *testing.T, uri string) {
		u, err := opampuri.Parse(uri)
		if err != nil {
			require.Zero(t, u)
		}
		if u.StateDir != "" {
			require.True(t, filepath.IsAbs(u.StateDir))
		}
	})
}
