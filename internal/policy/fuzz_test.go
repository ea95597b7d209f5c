package policy_test

import (
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// localConf is the local configuration of the fuzz tests.
func localConf() map[string]any {
	return map[string]any{
		"receivers":  map[string]any{"otlp": map[string]any{"protocols": map[string]any{"grpc": nil}}},
		"extensions": map[string]any{"opamp": ownBlock(), "basicauth/server": authBlock(), "zpages": nil},
		"service": map[string]any{
			"extensions": []any{"opamp", "basicauth/server", "zpages"},
			"pipelines":  map[string]any{"traces": map[string]any{"receivers": []any{"otlp"}, "exporters": []any{"debug"}}},
		},
	}
}

func ownBlock() map[string]any {
	return map[string]any{
		"server": map[string]any{"ws": map[string]any{"endpoint": "ws://x", "auth": "basicauth/server"}},
		"policy": map[string]any{"schemes": map[string]any{"allow": []any{"env"}}},
	}
}

func authBlock() map[string]any {
	return map[string]any{"client_auth": map[string]any{"username": "${env:CANARY_SECRET}", "password": "x"}}
}

// requireManaged checks what holds whatever a remote configuration says: the
// blocks of this extension and of the one it needs are the local ones, and both
// are enabled.
func requireManaged(t *testing.T, merged map[string]any) {
	t.Helper()
	extensions, ok := merged["extensions"].(map[string]any)
	require.True(t, ok)
	require.Equal(t, ownBlock(), extensions["opamp"])
	auth := authBlock()
	auth["client_auth"].(map[string]any)["username"] = secret
	require.Equal(t, auth, extensions["basicauth/server"])
	for id := range extensions {
		typ, name, _ := strings.Cut(id, "/")
		if strings.TrimSpace(typ) == "opamp" && strings.TrimSpace(name) == "" {
			require.Equal(t, "opamp", id, "an ID that the Collector would take for ours")
		}
	}
	service, ok := merged["service"].(map[string]any)
	require.True(t, ok)
	require.Subset(t, service["extensions"], []any{"opamp", "basicauth/server", "zpages"})
	seen := map[any]bool{}
	for _, id := range service["extensions"].([]any) {
		if text, ok := id.(string); ok {
			id = strings.TrimSpace(text)
		}
		require.False(t, seen[id], "%v is enabled twice", id)
		seen[id] = true
	}
}

// What the policy accepts is to the Collector what it was to the policy: nothing
// is read but variables that may be named, nothing of what a canary stands for
// comes from the remote side, and this extension stays as it is.
func FuzzCheck(f *testing.F) {
	for _, p := range corpus(f) {
		f.Add(p.body)
	}
	for _, text := range []string{
		"service: {extensions: [zpages]}", "service: {extensions: [' opamp ']}", "extensions: {' opamp': {}}", "extensions::opamp: {}",
		"'extensions:': {':opamp': {}}", "extensions: {opamp: , zpages: }", "a: ${env:OTELCOL_REMOTE_DOLLAR}{b}", "service: {? [a] : b}",
		"receivers: {a: '${env:OTELCOL_REMOTE_UNSET:-x}${HOSTNAME}$$'}", "receivers: {a: [1, 2.5, 2024-01-01, true, ~, 0x10, 1_000]}",
	} {
		f.Add([]byte(text))
	}
	p := policy.Default()
	side := policy.Local{
		Needs:      []string{"opamp", "basicauth/server"},
		Extensions: []string{"opamp", "basicauth/server", "zpages"},
		Blocks:     map[string][]any{"opamp": {ownBlock()}},
		Before:     []map[string]any{localConf()},
		LookupEnv:  lookupIn(canaryVariables()),
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		offer := remoteconfig.NewOffer(nil, []remoteconfig.File{{Body: body}})
		remote, err := offer.ParseWithin(p.Limits())
		if err != nil {
			return
		}
		before := fmt.Sprint(remote)
		conf, err := p.Check(remote, side)
		require.Equal(t, before, fmt.Sprint(remote), "the argument is not modified")
		if err != nil {
			require.NotContains(t, err.Error(), secret)
		}
		// Also what was never checked cannot take the management away.
		if protected, err := policy.Protect(remote, side.Needs); err == nil {
			c := &collector{variables: canaryVariables()}
			if merged, err := c.resolve(localConf(), policy.KeepExtensions(protected, side.Extensions)); err == nil && !hasSpaces(protected) {
				requireManaged(t, merged)
			}
		}
		if err != nil {
			return
		}
		c := &collector{variables: canaryVariables()}
		merged, err := c.resolve(localConf(), conf)
		require.NoError(t, err, "what the policy resolves the Collector resolves")
		requireManaged(t, merged)
		for _, uri := range c.read {
			if uri == "env:CANARY_SECRET" {
				continue // the local side
			}
			require.Regexp(t, allowedURI, uri)
		}
		merged["extensions"].(map[string]any)["basicauth/server"] = nil
		require.NotContains(t, fmt.Sprint(merged), secret)

		// What is served later comes from the same body by another way.
		protected, err := policy.Protect(remote, side.Needs)
		require.NoError(t, err)
		served := policy.KeepExtensions(protected, side.Extensions)
		require.True(t, reflect.DeepEqual(withoutNaN(conf), withoutNaN(served)), "checked %v, served %v", conf, served)
	})
}

// allowedURI matches what the default policy lets the Collector read.
var allowedURI = regexp.MustCompile(`(?s)^env:(OTELCOL_REMOTE_\w*|HOSTNAME|K8S_\w*|POD_\w*|MY_POD_IP|MY_POD_NAME|MY_NODE_NAME|OTEL_SERVICE_NAME|OTEL_RESOURCE_ATTRIBUTES)(:-.*)?$`)

// withoutNaN makes what is not equal to itself comparable.
func withoutNaN(value any) any { return fmt.Sprintf("%#v", value) }

// hasSpaces reports whether an extension is listed under an ID that the Collector
// trims: it is not united a second time.
func hasSpaces(conf map[string]any) bool {
	service, _ := conf["service"].(map[string]any)
	list, _ := service["extensions"].([]any)
	for _, id := range list {
		text, ok := id.(string)
		if !ok || strings.TrimSpace(text) != text || strings.Contains(text, "${") || strings.Contains(text, "/ ") || strings.Contains(text, " /") {
			return true
		}
	}
	return false
}

// The property that FuzzCheck checks for all texts, for all ways to attack each
// place of the tree.
func TestOwnExtensionIsTheLocalOne(t *testing.T) {
	t.Parallel()
	attackOwnExtension(t)
}

func attackOwnExtension(t *testing.T) {
	t.Helper()
	p := policy.Default()
	side := policy.Local{
		Needs: []string{"opamp", "basicauth/server"}, Extensions: []string{"opamp", "basicauth/server", "zpages"},
		Blocks: map[string][]any{"opamp": {ownBlock()}}, LookupEnv: lookupIn(canaryVariables()),
	}
	places := [][]string{
		{"extensions"},
		{"extensions", "opamp"},
		{"extensions", "opamp", "server"},
		{"extensions", "opamp", "server", "ws", "endpoint"},
		{"extensions", "opamp", "policy"},
		{"extensions", "basicauth/server"},
		{"extensions", "basicauth/server", "client_auth"},
		{"extensions", " opamp"},
		{"extensions", "opamp "},
		{"extensions", "basicauth/ server"},
		{"extensions", "zpages"},
		{"service"},
		{"service", "extensions"},
		{"service", " extensions"},
	}
	values := []any{
		nil, "x", 1, true,
		[]any{},
		[]any{"zpages"},
		[]any{nil},
		[]any{"opamp", "opamp"},
		[]any{" opamp"},
		[]any{"${HOSTNAME}"},
		map[string]any{},
		map[string]any{"x": 1},
		"${env:OTELCOL_REMOTE_UNSET:-x}", "${env:OTELCOL_REMOTE_MAP}", ownBlock(),
	}
	accepted := 0
	for _, place := range places {
		for _, value := range values {
			for cut := 1; cut <= len(place); cut++ { // the keys up to cut are written as one
				conf := map[string]any{}
				m := conf
				keys := append([]string{strings.Join(place[:cut], "::")}, place[cut:]...)
				for _, key := range keys[:len(keys)-1] {
					inner := map[string]any{}
					m[key], m = inner, inner
				}
				m[keys[len(keys)-1]] = value
				got, err := p.Check(maps.Clone(conf), side)
				if err != nil {
					continue
				}
				accepted++
				c := &collector{variables: canaryVariables()}
				merged, err := c.resolve(localConf(), got)
				require.NoError(t, err)
				requireManaged(t, merged)
			}
		}
	}
	assert.Greater(t, accepted, 10, "what does no harm passes")
}

func FuzzMatch(f *testing.F) {
	f.Add("*TOKEN*", "MY_TOKEN_1")
	f.Add("a?c*", "abcd")
	f.Add("**a*b", "aab")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 100 {
			return // the regular expression would take long
		}
		quoted := strings.NewReplacer(`\*`, `(?:.*)`, `\?`, `.`).Replace(regexp.QuoteMeta(latin(pattern)))
		want := regexp.MustCompile(`(?s)^` + quoted + `$`).MatchString(latin(text))
		require.Equal(t, want, policy.Match(pattern, text))
		require.True(t, policy.Match("*", text))
	})
}

// latin makes each byte a character of its own.
func latin(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(rune(text[i]))
	}
	return b.String()
}

// What a pattern covers it matches: of two patterns, whatever the covered one
// matches the covering one matches too.
func FuzzCovers(f *testing.F) {
	f.Add("var/log/**", "var/log/*.log", "var/log/x.log")
	f.Add("var/*/x", "var/a/x", "var/a/x")
	f.Add("**/x", "a/b/x", "a/b/x")
	f.Add("var/{a,b}", "var/{a,b}", "var/a")
	f.Fuzz(func(t *testing.T, pattern, narrower, name string) {
		if strings.Count(pattern, "**") > 3 || len(narrower) > 200 || strings.ContainsAny(pattern+name, `[]{}\?`) || strings.ContainsAny(narrower, `[]{}\`) {
			return // the standard library reads these in its own way
		}
		p, n, x := strings.Split(pattern, "/"), strings.Split(narrower, "/"), strings.Split(name, "/")
		if strings.ContainsAny(name, "*") || !policy.Covers(p, n) || !matchesSegments(n, x) {
			return
		}
		require.True(t, policy.Covers(p, x), "%q covers %q, which matches %q", pattern, narrower, name)
	})
}

// matchesSegments is a matcher of its own for patterns with ** between slashes.
func matchesSegments(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		for i := 0; i <= len(name); i++ {
			if matchesSegments(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return ok && err == nil && matchesSegments(pattern[1:], name[1:])
}
