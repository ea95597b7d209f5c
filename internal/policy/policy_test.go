package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// environment are the variables of the tests.
var environment = map[string]string{
	"HOSTNAME":                "host-1",
	"OTELCOL_REMOTE_NAME":     "name",
	"OTELCOL_REMOTE_DOLLAR":   "$",
	"OTELCOL_REMOTE_SECOND":   "${file:/etc/passwd}",
	"OTELCOL_REMOTE_ESCAPED":  `["\x24{file:/etc/passwd}"]`,
	"OTELCOL_REMOTE_MAP":      "{a: 1}",
	"OTELCOL_REMOTE_NUMBER":   "17",
	"OTELCOL_REMOTE_ADDRESS":  "0.0.0.0:1",
	"OTELCOL_REMOTE_API_KEY":  "canary",
	"AWS_SECRET_ACCESS_KEY":   "canary",
	"OTELCOL_REMOTE_LONG":     strings.Repeat("x", 100<<10),
	"OTELCOL_REMOTE_PIPELINE": "{processors: [batch]}",
}

func lookup(name string) (string, bool) {
	value, ok := environment[name]
	return value, ok
}

func parseYAML(t *testing.T, text string) map[string]any {
	t.Helper()
	conf := map[string]any{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &conf))
	return conf
}

// newPolicy returns the defaults with settings over them.
func newPolicy(t *testing.T, change func(*policy.Settings)) *policy.Policy {
	t.Helper()
	s := policy.DefaultSettings()
	if change != nil {
		change(&s)
	}
	p, err := policy.New(s)
	require.NoError(t, err)
	return p
}

func parse(p *policy.Policy, text string) (map[string]any, error) {
	return remoteconfig.NewOffer(nil, []remoteconfig.File{{Body: []byte(text)}}).ParseWithin(p.Limits())
}

var localSide = policy.Local{
	Needs:      []string{"opamp", "basicauth/server"},
	Extensions: []string{"opamp", "basicauth/server", "zpages"},
	Blocks: map[string][]any{"opamp": {
		map[string]any{"server": map[string]any{"ws": map[string]any{"endpoint": "ws://x", "headers": map[string]any{"a": "[REDACTED]"}}}},
	}},
	LookupEnv: lookup,
}

func judge(p *policy.Policy, text string) error {
	conf, err := parse(p, text)
	if err != nil {
		return err
	}
	_, err = p.Check(conf, localSide)
	return err
}

// Conformance: 165, 166
func TestDefaultPolicy(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, nil)
	for name, tt := range map[string]struct{ remote, want string }{
		"literals":                 {remote: "receivers: {otlp: {protocols: {grpc: }}}\nexporters: {debug: }"},
		"nothing":                  {remote: ""},
		"an allowed variable":      {remote: "exporters: {otlp: {endpoint: '${env:OTELCOL_REMOTE_NAME}:1', x: '${HOSTNAME}'}}"},
		"a default":                {remote: "exporters: {otlp: {endpoint: '${env:OTELCOL_REMOTE_UNSET:-localhost:1}', y: '${env:OTELCOL_REMOTE_UNSET:-}'}}"},
		"a nested default":         {remote: "exporters: {otlp: {endpoint: '${env:OTELCOL_REMOTE_UNSET:-${HOSTNAME}}'}}"},
		"a capture group":          {remote: "processors: {transform: {x: 'replace_pattern(a, \"(.*)\", \"$${1}-$$1\")'}}"},
		"a dollar":                 {remote: "processors: {transform: {x: 'costs $5, ${'}}"},
		"a list of extensions":     {remote: "service: {extensions: [zpages]}"},
		"many braces":              {remote: "exporters: {x: {a: '" + strings.Repeat("}", 5000) + "'}}"},
		"an anchor":                {remote: "receivers: {a: &x {b: 1}, c: *x, d: {<<: *x, e: 2}}"},
		"the block as it is shown": {remote: "extensions: {opamp: {server: {ws: {endpoint: ws://x, headers: {a: '[REDACTED]'}}}}}"},
		"env in a text that is no expression": {
			remote: "receivers: {filelog: {operators: [{type: add, value: 'EXPR(attributes.env + attributes[\"env\"])'}]}}",
		},
		"a label without a dollar": {remote: "receivers: {prometheus: {config: {global: {external_labels: {a: '$$HOSTNAME'}}}}}"},

		"another scheme":                  {"exporters: {otlp: {endpoint: '${file:/etc/passwd}'}}", `"exporters::otlp::endpoint" has a reference with the scheme "file"`},
		"http":                            {"exporters: {otlp: {endpoint: '${http://169.254.169.254/latest}'}}", `scheme "http"`},
		"yaml":                            {"exporters: {otlp: '${yaml:a: 1}'}", `"exporters::otlp" has a reference with the scheme "yaml"`},
		"this agent's":                    {"receivers: {a: {b: ['x${opamp:y}']}}", `"receivers::a::b::0" has a reference with the scheme "opamp"`},
		"the policy's own":                {"receivers: {a: '${remote:}'}", `scheme "remote"`},
		"an unknown scheme":               {"receivers: {a: '${nonesuch:x}'}", `"receivers::a" has a reference that cannot be resolved`},
		"a scheme in another case":        {"receivers: {a: '${FILE:/etc/passwd}'}", `"receivers::a" has a reference that cannot be resolved`},
		"a scheme in a default":           {"receivers: {a: '${env:OTELCOL_REMOTE_UNSET:-${file:/etc/passwd}}'}", `scheme "file"`},
		"a scheme in an unused default":   {"receivers: {a: '${env:HOSTNAME:-${file:/etc/passwd}}'}", `scheme "file"`},
		"a scheme within a name":          {"receivers: {a: '${env:${file:/etc/passwd}}'}", `scheme "file"`},
		"in a list":                       {"receivers: {a: [[{b: 'x ${file:/x} y'}]]}", `"receivers::a::0::0::b" has a reference`},
		"in a key":                        {"receivers: {a: {'${file:/x}': 1}}", `is a key with a reference`},
		"escaped":                         {"receivers: {a: '$${file:/etc/passwd}'}", `scheme "file" that is escaped`},
		"escaped twice":                   {"receivers: {a: '$$$${file:/etc/passwd}'}", `scheme "file"`},
		"a number of dollars":             {"receivers: {a: '$$$${env:AWS_SECRET_ACCESS_KEY}'}", `"AWS_SECRET_ACCESS_KEY", which is denied`},
		"put together from a variable":    {"receivers: {a: '${env:OTELCOL_REMOTE_DOLLAR}{file:/etc/passwd}'}", `scheme "file"`},
		"decoded in a default":            {`receivers: {a: '${env:OTELCOL_REMOTE_UNSET:-["\x24{file:/etc/passwd\x7d"]}'}`, "default that is no plain value"},
		"a denied variable":               {"receivers: {a: '${env:AWS_SECRET_ACCESS_KEY}'}", `the variable "AWS_SECRET_ACCESS_KEY", which is denied`},
		"a variable allowed and denied":   {"receivers: {a: '${OTELCOL_REMOTE_API_KEY}'}", "which is denied"},
		"in lower case":                   {"receivers: {a: '${OTELCOL_REMOTE_my_token}'}", "which is denied"},
		"a variable that is not allowed":  {"receivers: {a: '${PATH}'}", `the variable "PATH", which is not allowed`},
		"a name with a space":             {"receivers: {a: '${env: HOSTNAME}'}", "a variable whose name is not valid"},
		"a variable with a reference":     {"receivers: {a: '${env:OTELCOL_REMOTE_SECOND}'}", "whose value has a reference itself"},
		"a variable that decodes to one":  {"receivers: {a: '${env:OTELCOL_REMOTE_ESCAPED}'}", "whose value has a reference itself"},
		"too many braces":                 {"receivers: {a: '" + strings.Repeat("}", 100_000) + "${env:HOSTNAME}'}", "closing braces"},
		"too many references":             {"receivers: {a: '" + strings.Repeat("${HOSTNAME}", 101) + "'}", "more than 100 references"},
		"a long value used often":         {"receivers: {a: [" + strings.Repeat("'"+strings.Repeat("${OTELCOL_REMOTE_LONG}", 90)+"', ", 10) + "]}", "too many references to a variable"},
		"binary":                          {"receivers: {a: !!binary JHtmaWxlOi9ldGMvcGFzc3dkfQ==}", `the tag "!!binary" is not allowed`},
		"a tag":                           {"receivers: {a: !x y}", `the tag "!x" is not allowed`},
		"an escape":                       {`receivers: {a: "\u0024\x7bfile:/etc/passwd}"}`, `scheme "file"`},
		"UTF-16":                          {utf16("receivers: {a: '${file:/etc/passwd}'}"), `scheme "file"`},
		"the own block":                   {"extensions: {opamp: {server: {ws: {endpoint: ws://y}}}}", `"extensions::opamp" is managed locally`},
		"the auth block":                  {"extensions: {basicauth/server: {}}", `"extensions::basicauth/server" is managed locally`},
		"the own block by a long key":     {"extensions::opamp::server::ws::endpoint: x", "is a key that the Collector would split"},
		"a long key in a map":             {"extensions: {'opamp::server': {x: 1}}", "is a key that the Collector would split"},
		"a long key in a list":            {"receivers: {a: [{'b::c': 1}]}", "is a key that the Collector would split"},
		"colons that meet":                {"'extensions:': {':opamp': {x: 1}}", "is a key that the Collector would split"},
		"an ID with spaces":               {"extensions: {' opamp': {server: x}}", "is an ID with spaces"},
		"a name with spaces":              {"extensions: {'basicauth/ server': {x: y}}", "is an ID with spaces"},
		"a pipeline with spaces":          {"service: {pipelines: {'traces ': {}}}", "is an ID with spaces"},
		"an ID with spaces in a pipeline": {"service: {pipelines: {traces: {exporters: [' x']}}}", `"service::pipelines::traces::exporters::0" is an ID with spaces`},
		"an ID with spaces in extensions": {"service: {extensions: [' opamp ']}", `"service::extensions::0" is an ID with spaces`},
		"null for extensions":             {"extensions: null", `"extensions" is null`},
		"null for receivers":              {"receivers: ", `"receivers" is null`},
		"null for service":                {"service: ", `"service" is null`},
		"a list for service":              {"service: [x]", `"service" is a list`},
		"a list for extensions":           {"extensions: [opamp]", `"extensions" is a list`},
		"a reference for service":         {"service: '${env:OTELCOL_REMOTE_MAP}'", `"service" is a reference`},
		"a reference for extensions":      {"extensions: '${env:OTELCOL_REMOTE_MAP}'", `"extensions" is a reference`},
		"null for the list":               {"service: {extensions: }", `"service::extensions" is null`},
		"a reference for the list":        {"service: {extensions: '${env:OTELCOL_REMOTE_MAP}'}", `"service::extensions" is a reference`},
		"a map for the list":              {"service: {extensions: {a: 1}}", `"service::extensions" is a map`},
		"a reference in the list":         {"service: {extensions: ['${env:OTELCOL_REMOTE_NAME}']}", `"service::extensions::0" is a reference`},
		"null for pipelines":              {"service: {pipelines: }", `"service::pipelines" is null`},
		"null for a pipeline":             {"service: {pipelines: {traces: }}", `"service::pipelines::traces" is null`},
		"null for telemetry":              {"service: {telemetry: }", `"service::telemetry" is null`},
		"what is shown for a secret":      {"exporters: {otlp: {headers: {x: '[REDACTED]'}}}", `"exporters::otlp::headers::x" is what this agent shows instead of a secret`},
		"a masked URL":                    {"exporters: {otlp: {endpoint: 'http://[REDACTED]@x'}}", "instead of a secret"},
		"a key twice":                     {"receivers: {a: 1, 'a': 2}", `the key "a" is already defined`},
		"a key that is no text":           {"receivers: {a: {1: x}}", "a key is not a string"},
		"two documents":                   {"receivers: {}\n---\nreceivers: {}", "second document"},
		"deep":                            {"receivers: " + strings.Repeat("[", 70) + strings.Repeat("]", 70), "nested deeper than 64"},
		"the function env":                {"receivers: {filelog: {resource: {x: 'EXPR(env(\"AWS_SECRET_ACCESS_KEY\"))'}}}", "is an expression with the function env"},
		"env by another type":             {"receivers: {file_log/x: {operators: [{type: add, value: 'EXPR( (env) (\"A\"))'}]}}", "is an expression with the function env"},
		"env by its other name":           {"receivers: {syslog: {attributes: {x: 'EXPR($env[\"os_\"+\"env_func\"](\"A\"))'}}}", "is an expression with the function env"},
		"a label that Prometheus expands": {"receivers: {prometheus: {config: {global: {external_labels: {a: '$AWS_SECRET_ACCESS_KEY'}}}}}", `external_labels::a" names the variable "AWS_SECRET_ACCESS_KEY"`},
		"one with braces":                 {"receivers: {prometheus/x: {config: {global: {external_labels: {a: '$${AWS_SECRET_ACCESS_KEY}'}}}}}", `which is denied`},
		"a variable that is named":        {"processors: {k8s_attributes: {auth_type: x, filter: {node_from_env_var: AWS_SECRET_ACCESS_KEY}}}", `node_from_env_var" names the variable`},
		"a program":                       {"receivers: {journald: {journalctl_path: /tmp/x}}", `"receivers::journald::journalctl_path" is a path that is not allowed`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := judge(p, tt.remote)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, err.Error(), "canary")
		})
	}
}

// utf16 returns ASCII text in UTF-16, with a byte order mark.
func utf16(text string) string {
	out := []byte{0xff, 0xfe}
	for i := range len(text) {
		out = append(out, text[i], 0)
	}
	return string(out)
}

func TestAllViolationsAreTold(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, nil)
	err := judge(p, "receivers: {a: '${file:/x}', b: '${PATH}'}\nextensions: {opamp: {x: 1}}\nexporters: {c: ['${http://x}', '${http://x}']}")
	for _, want := range []string{"receivers::a", "receivers::b", "extensions::opamp", "exporters::c::0", "exporters::c::1"} {
		require.ErrorContains(t, err, want)
	}
	var many strings.Builder
	for i := range 30 {
		fmt.Fprintf(&many, "r%d: '${file:/x}'\n", i)
	}
	err = judge(p, many.String())
	var refusal *policy.RefusalError
	require.ErrorAs(t, err, &refusal)
	assert.Len(t, refusal.Violations, 10)
	assert.True(t, refusal.More)
	assert.Contains(t, err.Error(), "; and more")
}

// A hostile offer costs neither memory nor much time.
func TestBombs(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, nil)
	var aliases strings.Builder
	aliases.WriteString("receivers:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&aliases, "  a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 8), i-1)
	}
	var keys strings.Builder
	keys.WriteString("receivers:\n")
	for i := range 50_000 {
		fmt.Fprintf(&keys, "  k%d: 1\n", i)
	}
	for name, tt := range map[string]struct{ remote, want string }{
		"aliases":       {aliases.String(), "rule limits::max_nodes"},
		"many values":   {"receivers: {a: [" + strings.Repeat("1, ", 200_000) + "1]}", "rule limits::max_nodes"},
		"many keys":     {keys.String(), "a map has more than 10000 keys"},
		"size":          {"receivers: {a: " + strings.Repeat("x", 5<<20) + "}", "rule limits::max_bytes"},
		"a loop":        {"receivers: {a: &x [*x]}", "something that it is in"},
		"deep aliases":  {"receivers: {a: &a " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + ", b: " + strings.Repeat("[", 40) + "*a" + strings.Repeat("]", 40) + "}", "rule limits::max_depth"},
		"deep":          {"receivers: " + strings.Repeat("[", 100_000), ""},
		"many braces":   {"receivers: {a: '" + strings.Repeat("}", 3<<20) + "${a}'}", "closing braces"},
		"default alias": {"receivers: {a: '${env:OTELCOL_REMOTE_UNSET:-[&a [x], *a]}'}", "default that is no plain value"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			err := judge(p, tt.remote)
			require.ErrorContains(t, err, tt.want)
			assert.Less(t, time.Since(begin), 20*time.Second, "bounded also on a slow and busy machine")
		})
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change       func(*policy.Settings)
		remote, want string
	}{
		"another scheme allowed": {
			change: func(s *policy.Settings) { s.Schemes.Allow = []string{"env", "file"} },
			remote: "exporters: {a: '${file:/x}'}",
		},
		"a scheme of another build": {
			change: func(s *policy.Settings) { s.Schemes.Allow = []string{"nonesuch"} },
			remote: "exporters: {a: '${nonesuch:/x}'}",
		},
		"no scheme": {
			change: func(s *policy.Settings) { s.Schemes.Allow = nil },
			remote: "exporters: {a: '${HOSTNAME}'}", want: `scheme "env"`,
		},
		"an allowed variable": {
			change: func(s *policy.Settings) { s.Env.Allow, s.Env.Deny = []string{"AWS_*"}, nil },
			remote: "exporters: {a: '${AWS_SECRET_ACCESS_KEY}'}",
		},
		"a component that is not allowed": {
			change: func(s *policy.Settings) { s.Components.Allow.Receivers = []string{"otlp", "hostmetrics"} },
			remote: "receivers: {otlp/a: {}, host_metrics: {}, filelog: {}}", want: `"receivers::filelog" is a component that is not allowed`,
		},
		"allowed components": {
			change: func(s *policy.Settings) { s.Components.Allow.Receivers = []string{"otlp", "host*"} },
			remote: "receivers: {otlp/a: {}, hostmetrics: {}}",
		},
		"a denied component": {
			change: func(s *policy.Settings) { s.Components.Deny.Receivers = []string{"filelog"} },
			remote: "receivers: {file_log/x: {}}", want: `"receivers::file_log/x" is a component that is denied`,
		},
		"a denied component by its former name": {
			change: func(s *policy.Settings) { s.Components.Deny.Exporters = []string{"otlp_grpc"} },
			remote: "exporters: {otlp: {}}", want: "denied",
		},
		"a denied ID": {
			change: func(s *policy.Settings) { s.Components.Deny.Exporters = []string{"file/audit"} },
			remote: "exporters: {file: {}, file/audit: {}}", want: `"exporters::file/audit" is a component that is denied`,
		},
		"a denied extension": {
			change: func(s *policy.Settings) { s.Components.Deny.Extensions = []string{"*auth"} },
			remote: "extensions: {bearertokenauth: {}}", want: "denied",
		},
		"a locked path": {
			change: func(s *policy.Settings) { s.Locked = []string{"service::telemetry"} },
			remote: "service: {telemetry: {logs: {level: debug}}}", want: `"service::telemetry" is locked`,
		},
		"beside a locked path": {
			change: func(s *policy.Settings) { s.Locked = []string{"service::telemetry::metrics"} },
			remote: "service: {telemetry: {logs: {level: debug}}}",
		},
		"an ancestor as null": {
			change: func(s *policy.Settings) { s.Locked = []string{"exporters::otlp::tls::insecure"} },
			remote: "exporters: {otlp: }", want: `"exporters::otlp" is null and stands for something that is locked`,
		},
		"an ancestor as a reference": {
			change: func(s *policy.Settings) { s.Locked = []string{"exporters::otlp::tls::insecure"} },
			remote: "exporters: {otlp: {tls: '${env:OTELCOL_REMOTE_MAP}'}}", want: `"exporters::otlp::tls" is a reference and stands for`,
		},
		"a locked pattern": {
			change: func(s *policy.Settings) { s.Locked = []string{"exporters::*::tls"} },
			remote: "exporters: {otlp/x: {tls: {}}}", want: `"exporters::otlp/x::tls" is locked`,
		},
		"limits": {
			change: func(s *policy.Settings) { s.Limits.MaxBytes = 10 },
			remote: "receivers: {a: {}}", want: "larger than 10 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := judge(newPolicy(t, tt.change), tt.remote)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestRequire(t *testing.T) {
	t.Parallel()
	local := localSide
	local.Before = []map[string]any{
		parseYAML(t, "processors: {redaction: , batch: }\nservice: {pipelines: {traces: {receivers: [otlp], processors: [redaction, batch], exporters: [debug]}}}"),
	}
	for name, tt := range map[string]struct {
		require      policy.Requirement
		after        string
		remote, want string
	}{
		"stays":                        {remote: "service: {pipelines: {traces: {processors: [redaction]}}}"},
		"is not touched":               {remote: "service: {pipelines: {traces: {exporters: [otlp]}}}"},
		"is dropped":                   {remote: "service: {pipelines: {traces: {processors: [batch]}}}", want: `"service::pipelines::traces::processors" lacks the required processor redaction`},
		"an empty list":                {remote: "service: {pipelines: {traces: {processors: []}}}", want: "lacks"},
		"a null list":                  {remote: "service: {pipelines: {traces: {processors: }}}", want: "lacks"},
		"a list from a reference":      {remote: "service: {pipelines: {traces: {processors: '${env:OTELCOL_REMOTE_UNSET:-x}'}}}", want: "lacks"},
		"a further pipeline":           {remote: "service: {pipelines: {traces/2: {receivers: [otlp], exporters: [debug]}}}", want: `"service::pipelines::traces/2::processors" lacks`},
		"a further pipeline with it":   {remote: "service: {pipelines: {traces/2: {processors: [batch, redaction]}}}"},
		"another one":                  {remote: "processors: {redaction/2: {allow_all_keys: true}}\nservice: {pipelines: {traces: {processors: [redaction/2]}}}", want: `"processors::redaction/2" is required, and so defined locally only`},
		"is weakened":                  {remote: "processors: {redaction: {allow_all_keys: true}}", want: `"processors::redaction" is required, and so defined locally only`},
		"another signal":               {require: policy.Requirement{Component: "redaction", Pipelines: []string{"traces"}}, remote: "service: {pipelines: {logs: {processors: []}}}"},
		"another pipeline":             {require: policy.Requirement{Component: "redaction", Pipelines: []string{"traces/*"}}, remote: "service: {pipelines: {traces: {processors: []}}}"},
		"the wrong place":              {require: policy.Requirement{Component: "redaction", Position: "last"}, remote: "service: {pipelines: {traces: {processors: [redaction, batch]}}}", want: "in the last place"},
		"the right place":              {require: policy.Requirement{Component: "redaction", Position: "first"}, remote: "service: {pipelines: {traces: {processors: [redaction, batch]}}}"},
		"a later layer brings it back": {after: "service: {pipelines: {traces: {processors: [redaction]}}}", remote: "service: {pipelines: {traces: {processors: [batch]}}}"},
		"an exporter":                  {require: policy.Requirement{Kind: "exporter", Component: "debug"}, remote: "service: {pipelines: {traces: {exporters: [otlp]}}}", want: "lacks the required exporter debug"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tt.require
			if r.Component == "" {
				r.Component = "redaction"
			}
			p := newPolicy(t, func(s *policy.Settings) { s.Require = []policy.Requirement{r} })
			side := local
			if tt.after != "" {
				side.After = []map[string]any{parseYAML(t, tt.after)}
			}
			conf, err := parse(p, tt.remote)
			require.NoError(t, err)
			_, err = p.Check(conf, side)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// Conformance: 163
func TestFiles(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "logs", "a"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "secret"), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "logs", "link")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "logs"), filepath.Join(dir, "shortcut")))
	for _, tt := range []struct {
		allow, path string
		ok          bool
	}{
		{"logs/**", "logs/a/x.log", true},
		{"logs/**", "logs", true},
		{"logs/*", "logs/x.log", true},
		{"logs/*", "logs/a/x.log", false},
		{"logs/*.log", "logs/x.log", true},
		{"logs/*.log", "logs/x.txt", false},
		{"logs/**", "logs/*.log", true},
		{"logs/**", "logs/**/*.log", true},
		{"logs/*", "logs/**", false},
		{"logs/*.log", "logs/*.log", true},
		{"logs/a*.log", "logs/*.log", false},
		{"logs/**", "logs/../secret/x", false},
		{"logs/**", "logs/a/../x.log", true},
		{"logs/**", "logs/none/../../secret/x", false},
		{"logs/**", "logs/*/../../secret/x", false},
		{"logs/**", "logs/{a,../../secret}/x", false},
		{"logs/**", "logs/link/x", false},
		{"logs/**", "logs/link/../logs/x", true},
		{"logs/**", "shortcut/x", true},
		{"shortcut/**", "logs/x", true},
		{"logs/**", "logs2/x", false},
		{"logs/**", "", true},
		{"secret/x", "secret/x", true},
	} {
		t.Run(tt.allow+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			path := tt.path
			if path != "" {
				path = dir + "/" + path
			}
			p := newPolicy(t, func(s *policy.Settings) { s.Files.Read = &policy.AllowSettings{Allow: []string{dir + "/" + tt.allow}} })
			_, err := p.Check(map[string]any{"receivers": map[string]any{"filelog": map[string]any{"include": []any{path}}}}, localSide)
			assert.Equal(t, tt.ok, err == nil, "%v", err)
		})
	}
	p := newPolicy(t, func(s *policy.Settings) { s.Files.Read = &policy.AllowSettings{Allow: []string{dir + "/**"}} })
	for _, path := range []string{"relative", "file:///etc/passwd", "/proc/self/root/etc/passwd", dir + "/x\x00", dir + "/" + strings.Repeat("a/", 5000)} {
		_, err := p.Check(map[string]any{"receivers": map[string]any{"filelog": map[string]any{"include": path}}}, localSide)
		require.ErrorContains(t, err, "is a path that is not allowed", path)
	}
}

// Every rule of the table finds its field.
func TestRules(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, func(s *policy.Settings) {
		none := &policy.AllowSettings{}
		s.Files = policy.FileSettings{Read: none, Write: none, Execute: none}
		s.Listen = none
	})
	open := newPolicy(t, func(s *policy.Settings) {
		all := &policy.AllowSettings{Allow: []string{"/**"}}
		s.Files = policy.FileSettings{Read: all, Write: all, Execute: all}
		s.Listen = &policy.AllowSettings{Allow: []string{"*"}}
	})
	text, err := os.ReadFile("../../docs/policy.md")
	require.NoError(t, err)
	table := strings.ReplaceAll(string(text), "_", "")
	for _, r := range policy.Rules() {
		component := strings.TrimSuffix(r.Section, "s") + " `" + r.Type + "`"
		switch {
		case r.Section == "*":
			component = "every component"
		case r.Section == "service":
			component = "`service::telemetry`"
		case r.Type == "*":
			component = "every receiver"
		}
		row := strings.ReplaceAll("| "+component+" | `"+r.Field+"` | `"+r.Access+"` |", "_", "")
		assert.Contains(t, table, row, "the table in docs/policy.md")
		section, typ := r.Section, r.Type
		if section == "*" {
			section = "exporters"
		}
		if typ == "*" {
			typ = "any"
		}
		if section == "service" {
			typ = "telemetry"
		}
		var value any = "/x:1"
		segments := strings.Split(r.Field, "::")
		for _, s := range slices.Backward(segments) {
			switch s {
			case "*":
				value = []any{value}
			case "**":
				value = map[string]any{"any": map[string]any{"depth": value}}
			default:
				value = map[string]any{strings.ReplaceAll(s, "*", "x"): value}
			}
		}
		conf := map[string]any{section: map[string]any{typ: value}}
		_, err = p.Check(conf, localSide)
		require.ErrorContains(t, err, "rule "+r.Access, r.Field)
		_, err = open.Check(conf, localSide)
		require.NoError(t, err, r.Field)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		allow, address string
		ok             bool
	}{
		{"localhost", "localhost:4317", true},
		{"localhost", "127.0.0.1:4317", true},
		{"localhost", "[::1]:4317", true},
		{"localhost", "[::ffff:127.0.0.1]:4317", true},
		{"localhost", "0.0.0.0:4317", false},
		{"localhost", ":4317", false},
		{"localhost", "[::]:4317", false},
		{"localhost", "localhost.example.com:1", false},
		{"localhost:4317", "127.0.0.1:4318", false},
		{"0.0.0.0:4317", ":4317", true},
		{"10.*:4317", "10.1.2.3:4317", true},
		{"10.*:4317", "11.1.2.3:4317", false},
		{"*", "[::]:1", true},
		{"localhost", "${env:OTELCOL_REMOTE_ADDRESS}", false},
		{"localhost", "${env:OTELCOL_REMOTE_UNSET:-localhost:1}", true},
		{"*", "${env:OTELCOL_REMOTE_NUMBER}", false},
		{"localhost", "unix:///tmp/x", false},
	} {
		t.Run(tt.allow+" "+tt.address, func(t *testing.T) {
			t.Parallel()
			p := newPolicy(t, func(s *policy.Settings) { s.Listen = &policy.AllowSettings{Allow: []string{tt.allow}} })
			_, err := p.Check(map[string]any{"receivers": map[string]any{"otlp": map[string]any{"protocols": map[string]any{"grpc": map[string]any{"endpoint": tt.address}}}}}, localSide)
			assert.Equal(t, tt.ok, err == nil, "%v", err)
		})
	}
	p := newPolicy(t, func(s *policy.Settings) {
		s.Schemes.Allow = []string{"env", "file"}
		s.Listen = &policy.AllowSettings{Allow: []string{"*"}}
	})
	err := judge(p, "receivers: {otlp: {protocols: {grpc: {endpoint: '${file:/x}'}}}}")
	require.ErrorContains(t, err, "is a reference whose value is not known")
	err = judge(p, "receivers: {otlp: {protocols: '${env:OTELCOL_REMOTE_MAP}'}}")
	require.ErrorContains(t, err, "is a reference to something that is no text")
}

// With the scheme allowed a remote configuration may name values of connections,
// as texts that are not known.
func TestConnectionValues(t *testing.T) {
	t.Parallel()
	open := func(s *policy.Settings) { s.Schemes.Allow = []string{"env", "opamp", "file"} }
	strict := func(s *policy.Settings) {
		open(s)
		s.Files.Read = &policy.AllowSettings{Allow: []string{"/**"}}
		s.Listen = &policy.AllowSettings{Allow: []string{"*"}}
		s.Require = []policy.Requirement{{Component: "redaction"}}
	}
	const noValue = "that is no value of a connection of this agent"
	const noLeaf = "is a value of a connection where a map or an ID must stand"
	for name, tt := range map[string]struct {
		change       func(*policy.Settings)
		remote, want string
	}{
		"a leaf":                {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:#other_connections/backend/endpoint}'}}"},
		"a default":             {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:#other_connections/backend/endpoint:-https://localhost:4318}'}}"},
		"within a text":         {change: open, remote: "exporters: {otlp: {headers: {a: 'Bearer ${opamp:#other_connections/b/other/token} ${HOSTNAME}'}}}"},
		"in a list":             {change: open, remote: "exporters: {kafka: {brokers: ['${opamp:#other_connections/b/endpoint}']}}"},
		"escaped":               {change: open, remote: "exporters: {a: {b: '$${opamp:#x}'}}"},
		"a file, unchecked":     {change: open, remote: "exporters: {otlp: {tls: {ca_file: '${opamp:#other_connections/b/tls/ca_file}'}}}"},
		"by default":            {remote: "exporters: {otlp: {endpoint: '${opamp:#other_connections/b/endpoint}'}}", want: `has a reference with the scheme "opamp": write the value out, or allow the scheme`},
		"all of the remote one": {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:}'}}", want: noValue},
		"by default, all":       {remote: "exporters: {otlp: {endpoint: '${opamp:}'}}", want: `has a reference with the scheme "opamp": write the value out (`},
		"of another agent":      {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:edge#own_metrics/endpoint}'}}", want: noValue},
		"from another folder":   {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:?state_dir=/x#own_metrics/endpoint}'}}", want: noValue},
		"without a path":        {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:#}'}}", want: noValue},
		"not closed":            {change: open, remote: "exporters: {otlp: {endpoint: '${opamp:#x'}}", want: noValue},
		"put together":          {change: open, remote: "exporters: {a: {b: '${opamp:${HOSTNAME}#x}'}}", want: noValue},
		"with a variable":       {change: open, remote: "exporters: {a: {b: '${opamp:#${HOSTNAME}}'}}", want: noValue},
		"by parts, all":         {change: open, remote: "exporters: {a: {b: '${env:OTELCOL_REMOTE_DOLLAR}{opamp:}'}}", want: noValue},
		"by parts, nested":      {change: open, remote: "exporters: {a: {b: '${op${env:OTELCOL_REMOTE_UNSET:-amp}:?guard=true#x}'}}", want: noValue},
		"in a default":          {change: open, remote: "exporters: {a: {b: '${env:OTELCOL_REMOTE_UNSET:-${opamp:#x}}'}}", want: "has a reference with a value of a connection in it"},
		"as a variable":         {change: open, remote: "exporters: {a: {b: '${env:${opamp:#x}}'}}", want: "has a reference with a value of a connection in it"},
		"as a file to include":  {change: open, remote: "exporters: {a: {b: '${file:${opamp:#x}}'}}", want: "has a reference with a value of a connection in it"},
		"as a scheme":           {change: open, remote: "exporters: {a: {b: '${${opamp:#x}:y}'}}", want: "has a reference"},
		"a section":             {change: open, remote: "exporters: '${opamp:#x}'", want: `"exporters" is a reference`},
		"a component":           {change: open, remote: "exporters: {otlp: '${opamp:#x}'}", want: `"exporters::otlp" ` + noLeaf},
		"telemetry":             {change: open, remote: "service: {telemetry: '${opamp:#x}'}", want: `"service::telemetry" is a reference`},
		"an extension":          {change: open, remote: "service: {extensions: ['${opamp:#x}']}", want: `"service::extensions::0" is a reference`},
		"an ID":                 {change: open, remote: "service: {pipelines: {traces: {exporters: ['${opamp:#x}']}}}", want: `"service::pipelines::traces::exporters::0" ` + noLeaf},
		"a list of IDs":         {change: open, remote: "service: {pipelines: {traces: {exporters: '${opamp:#x}'}}}", want: noLeaf},
		"a key":                 {change: open, remote: "exporters: {otlp: {'${opamp:#x}': 1}}", want: "is a key with a reference"},
		"a file":                {change: strict, remote: "exporters: {otlp: {tls: {ca_file: '${opamp:#other_connections/b/tls/ca_file}'}}}", want: "is a reference whose value is not known"},
		"an address":            {change: strict, remote: "receivers: {otlp: {protocols: {grpc: {endpoint: '${opamp:#x}'}}}}", want: "is a reference whose value is not known"},
		"a program":             {change: open, remote: "receivers: {journald: {journalctl_path: '${opamp:#x}'}}", want: "is a reference whose value is not known"},
		"a variable's name":     {change: open, remote: "processors: {k8s_attributes: {filter: {node_from_env_var: '${opamp:#x}'}}}", want: "names a variable whose name is not valid"},
		"an expression":         {change: open, remote: "receivers: {filelog: {operators: [{type: add, value: '${opamp:#x}'}]}}", want: "where an expression may stand"},
		"a label":               {change: open, remote: "receivers: {prometheus: {config: {global: {external_labels: {a: '${opamp:#x}'}}}}}", want: "where a variable may be named"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := judge(newPolicy(t, tt.change), tt.remote)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
	side := localSide
	side.Needs = []string{"opamp/edge"}
	p := newPolicy(t, open)
	for remote, ok := range map[string]bool{"${opamp:edge#x}": true, "${opamp:#x}": false, "${opamp:edg#x}": false} {
		_, err := p.Check(map[string]any{"exporters": map[string]any{"otlp": map[string]any{"endpoint": remote}}}, side)
		assert.Equal(t, ok, err == nil, "%s: %v", remote, err)
	}
	require.ErrorContains(t, p.CheckText("a", "${opamp:#x}", lookup), noValue, "a value does not stand for another one")
}

func TestCheckText(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, nil)
	require.NoError(t, p.CheckText("headers::a", "Bearer ${env:OTELCOL_REMOTE_NAME}", lookup))
	require.ErrorContains(t, p.CheckText("headers::a", "Bearer ${file:/x}", lookup), `"headers::a" has a reference with the scheme "file"`)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*policy.Settings){
		"`policy::connections::hosts::allow::0` must be a pattern":   func(s *policy.Settings) { s.Connections.Hosts.Allow = []string{" x"} },
		"`policy::connections::hosts::allow::1` must be a host or":   func(s *policy.Settings) { s.Connections.Hosts.Allow = []string{"x", "https://x"} },
		"`policy::schemes::allow::1` must be the name":               func(s *policy.Settings) { s.Schemes.Allow = []string{"env", "a:"} },
		"`policy::limits::max_bytes` must be positive, found 0":      func(s *policy.Settings) { s.Limits.MaxBytes = 0 },
		"`policy::limits::max_depth` must be positive, found -1":     func(s *policy.Settings) { s.Limits.MaxDepth = -1 },
		"`policy::limits::max_nodes` must be positive, found 0":      func(s *policy.Settings) { s.Limits.MaxNodes = 0 },
		"`policy::env::allow::0` must be a pattern":                  func(s *policy.Settings) { s.Env.Allow = []string{" X"} },
		"`policy::components::deny::exporters::0` must be a pattern": func(s *policy.Settings) { s.Components.Deny.Exporters = []string{""} },
		"`policy::locked::0` must be a path":                         func(s *policy.Settings) { s.Locked = []string{"service::"} },
		"`policy::files::read::allow::0` must be an absolute path":   func(s *policy.Settings) { s.Files.Read = &policy.AllowSettings{Allow: []string{"x"}} },
		"`policy::files::write::allow::0` must be an absolute path":  func(s *policy.Settings) { s.Files.Write = &policy.AllowSettings{Allow: []string{"/x/../y"}} },
		"`policy::listen::allow::0` must be a pattern":               func(s *policy.Settings) { s.Listen = &policy.AllowSettings{Allow: []string{""}} },
		"`policy::require::0::component` must be given":              func(s *policy.Settings) { s.Require = []policy.Requirement{{}} },
		"`policy::require::0::kind` must be one of":                  func(s *policy.Settings) { s.Require = []policy.Requirement{{Component: "a", Kind: "x"}} },
		"`policy::require::0::position` must be one of":              func(s *policy.Settings) { s.Require = []policy.Requirement{{Component: "a", Position: "x"}} },
		"`policy::require::0::position` must be any": func(s *policy.Settings) {
			s.Require = []policy.Requirement{{Component: "a", Kind: "exporter", Position: "last"}}
		},
		"`policy::require::0::pipelines::0` must be a pattern": func(s *policy.Settings) { s.Require = []policy.Requirement{{Component: "a", Pipelines: []string{""}}} },
	} {
		s := policy.DefaultSettings()
		change(&s)
		_, err := policy.New(s)
		require.ErrorContains(t, err, want)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]policy.Size{"1": 1, "4MiB": 4 << 20, "2 KiB": 2 << 10, "1GiB": 1 << 30} {
		var s policy.Size
		require.NoError(t, s.UnmarshalText([]byte(text)))
		assert.Equal(t, want, s)
		back, err := s.MarshalText()
		require.NoError(t, err)
		assert.Equal(t, strings.ReplaceAll(text, " ", ""), string(back))
	}
	for _, text := range []string{"", "4 MB", "x", "9999999999GiB"} {
		require.Error(t, new(policy.Size).UnmarshalText([]byte(text)))
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	assert.Equal(t, policy.Default().Fingerprint(), newPolicy(t, nil).Fingerprint())
	assert.NotEqual(t, policy.Default().Fingerprint(), newPolicy(t, func(s *policy.Settings) { s.Locked = []string{"a"} }).Fingerprint())
	for _, change := range []func(*policy.Settings){
		func(s *policy.Settings) { s.Connections.Hosts.Allow = []string{"a"} },
		func(s *policy.Settings) { s.Connections.MayWeakenTLS = true },
		func(s *policy.Settings) { s.Connections.MayReplaceAuth = true },
	} {
		assert.NotEqual(t, policy.Default().Fingerprint(), newPolicy(t, change).Fingerprint())
	}
}

// TestProtect lists the forms in which it was tried to remove the agent.
func TestProtect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ remote, want, wantErr string }{
		{remote: "service: {extensions: [zpages]}", want: "service: {extensions: [zpages, opamp, auth]}"},
		{remote: "service: {extensions: []}", want: "service: {extensions: [opamp, auth]}"},
		{remote: "service: {extensions: }", want: "service: {extensions: [opamp, auth]}"},
		{remote: "service::extensions: [zpages]", want: "service: {extensions: [zpages, opamp, auth]}"},
		{remote: "service: {extensions: [' auth ']}", want: "service: {extensions: [auth, opamp]}"},
		{remote: "service: {extensions: [x, x, opamp, 'opamp ']}", want: "service: {extensions: [x, opamp, auth]}"},
		{remote: "service: {extensions: ['${env:A:-x / y}']}", want: "service: {extensions: ['${env:A:-x / y}', opamp, auth]}"},
		{remote: "receivers: {a: }", want: "receivers: {a: }"},
		{remote: "service: ", wantErr: `"service" must be a map`},
		{remote: "service: ${env:X}", wantErr: `"service" must be a map`},
		{remote: "extensions: null", wantErr: `"extensions" must be a map`},
		{remote: "service: {extensions: '${env:X}'}", wantErr: `"service::extensions" must be a list`},
		{remote: "extensions: {opamp: {server: {ws: {endpoint: x}}}, ' auth': {}, x: {}}", want: "extensions: {x: {}}"},
		{remote: "extensions::opamp::server::ws::endpoint: x", want: "extensions: {}"},
		{remote: "receivers: {a: {b: ['x${opamp:y}']}}", wantErr: `"receivers::a::b::0" refers to ${opamp:…}`},
		{remote: "receivers: {a: '${opamp:#own_metrics/endpoint}'}", want: "receivers: {a: '${opamp:#own_metrics/endpoint}'}"},
		{remote: "receivers: {a: '${opamp:edge#own_metrics/endpoint}'}", wantErr: "refers to"},
		{remote: "receivers: {a: '${opamp:?state_dir=/x#own_metrics/endpoint}'}", wantErr: "refers to"},
		{remote: "receivers: {a: '${opamp:#x:-${opamp:}}'}", wantErr: "refers to"},
	} {
		t.Run(tt.remote, func(t *testing.T) {
			t.Parallel()
			got, err := policy.Protect(parseYAML(t, tt.remote), []string{"opamp", "auth"})
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, parseYAML(t, tt.want), policy.KeepExtensions(got, []string{"opamp", "auth"}))
		})
	}
}
