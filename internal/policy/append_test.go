package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/featuregate"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

// appendLists turns on the Collector's gate with which lists of extensions,
// receivers and exporters are appended to those of earlier layers. Tests that use
// it must not be parallel.
func appendLists(t *testing.T) {
	t.Helper()
	const gate = "confmap.enableMergeAppendOption"
	require.NoError(t, featuregate.GlobalRegistry().Set(gate, true))
	t.Cleanup(func() { assert.NoError(t, featuregate.GlobalRegistry().Set(gate, false)) })
}

// Where the Collector appends to lists, a remote configuration cannot take the
// agent away either, and nothing is enabled twice.
func TestOwnExtensionWhereListsAreAppended(t *testing.T) {
	appendLists(t)
	attackOwnExtension(t)
	for _, remote := range []string{
		"service: {extensions: [zpages]}",
		"service: {extensions: [opamp, opamp, ' opamp ', foo]}",
		"service: {extensions: }",
		"service: {extensions: []}",
	} {
		protected, err := policy.Protect(parseYAML(t, remote), []string{"opamp", "basicauth/server"})
		require.NoError(t, err)
		c := &collector{variables: canaryVariables()}
		merged, err := c.resolve(localConf(), policy.KeepExtensions(protected, []string{"opamp", "basicauth/server", "zpages"}))
		require.NoError(t, err)
		requireManaged(t, merged)
	}
}

// Required components are looked for in what the Collector makes of the layers.
func TestRequireWhereListsAreAppended(t *testing.T) {
	appendLists(t)
	environment := map[string]string{"OTELCOL_REMOTE_LIST": "[otlp]"}
	side := localSide
	side.LookupEnv = lookupIn(environment)
	before := parseYAML(t, "processors: {redaction: }\nservice: {pipelines: {traces: {receivers: [otlp], processors: [redaction], exporters: [debug]}}}")
	p := newPolicy(t, func(s *policy.Settings) {
		s.Require = []policy.Requirement{{Component: "redaction"}, {Kind: "exporter", Component: "debug"}}
	})
	for name, tt := range map[string]struct{ remote, after, want string }{
		"a list is appended to":            {remote: "service: {pipelines: {traces: {exporters: [otlp]}}}"},
		"a list of processors is not":      {remote: "service: {pipelines: {traces: {processors: [batch]}}}", want: "lacks the required processor redaction"},
		"null replaces a list":             {remote: "service: {pipelines: {traces: {exporters: }}}", want: "lacks the required exporter debug"},
		"a reference replaces a list":      {remote: "service: {pipelines: {traces: {exporters: '${env:OTELCOL_REMOTE_LIST}'}}}", want: "lacks the required exporter debug"},
		"a list that meets null":           {remote: "service: {pipelines: {traces: {exporters: }}}", after: "service: {pipelines: {traces: {exporters: [debug]}}}", want: "cannot be merged with the local configuration"},
		"a list that meets a number":       {remote: "service: {pipelines: {traces: {exporters: 5}}}", after: "service: {pipelines: {traces: {exporters: [debug]}}}", want: "cannot be merged with the local configuration"},
		"a list after the remote one":      {remote: "service: {pipelines: {traces: {exporters: [otlp]}}}", after: "service: {pipelines: {traces: {exporters: [file]}}}"},
		"a further pipeline without":       {remote: "service: {pipelines: {traces/2: {processors: [redaction], exporters: [otlp]}}}", want: `"service::pipelines::traces/2::exporters" lacks`},
		"a further pipeline has both":      {remote: "service: {pipelines: {traces/2: {processors: [redaction], exporters: [otlp, debug]}}}"},
		"an element that is a reference":   {remote: "service: {pipelines: {traces/2: {processors: [redaction], exporters: ['${env:OTELCOL_REMOTE_UNSET:-debug}']}}}"},
		"an element that is another thing": {remote: "service: {pipelines: {traces/2: {processors: [redaction], exporters: ['${env:OTELCOL_REMOTE_UNSET:-x}']}}}", want: "lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			side := side
			side.Before = []map[string]any{before}
			if tt.after != "" {
				side.After = []map[string]any{parseYAML(t, tt.after)}
			}
			conf, err := parse(p, tt.remote)
			require.NoError(t, err)
			_, err = p.Check(conf, side)
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
		})
	}
}
