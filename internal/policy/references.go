package policy

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"
)

const (
	// maxBraces is how many closing braces a text with a reference may have:
	// confmap looks for references with one level of recursion for each.
	maxBraces = 1000
	// maxReferences is how many references a text may have: for each one confmap
	// copies the whole list that the text is in.
	maxReferences = 100
	// maxExpanded bounds in bytes what values of variables may make of a
	// configuration that uses them often.
	maxExpanded = 64 << 20
	// rootScheme is the one of the configuration that is judged.
	rootScheme = "remote"
	// unknown stands for what is not read to judge a configuration.
	unknown = "\x00unknown\x00"
	// unknownValue is what stands for the value of a connection.
	unknownValue = unknown + "value\x00"
)

// knownSchemes are refused by name when they are not allowed; of any other it is
// only told that it is none of the allowed ones.
var knownSchemes = []string{rootScheme, "file", "http", "https", "yaml", agentScheme, "s3", "secretsmanager", "googlesecretmanager", "aes", "vault"}

// variableName is what the Collector takes for the name of a variable.
var variableName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// text is a text with a reference, or with what could be one.
type text struct{ path, text string }

// references checks all references and returns conf with them resolved, if they
// are allowed and can be. The Collector's own resolver does the work, so that
// nothing is a reference to it and not to the policy.
func (c *check) references(conf map[string]any) (map[string]any, bool) {
	before := len(c.found)
	e := newEvaluator(c.policy, c.local)
	var texts []text
	// What has no reference is not shown to the resolver: it takes long for large
	// configurations.
	flat := map[string]any{}
	walk("", conf, func(path string, value any) {
		t, ok := value.(string)
		if !ok || !strings.Contains(t, "${") {
			return
		}
		flat[strconv.Itoa(len(texts))] = t
		texts = append(texts, text{path, t})
		references := strings.Count(t, "${")
		e.references += references
		if strings.Count(t, "}") > maxBraces {
			c.refuse(Violation{"references", path, fmt.Sprintf("is a text with a reference and more than %d closing braces", maxBraces), "write it without references"})
		}
		if references > maxReferences {
			c.refuse(Violation{"references", path, fmt.Sprintf("is a text with more than %d references", maxReferences), "use fewer"})
		}
	})
	if len(c.found) > before {
		return nil, false
	}
	if len(texts) == 0 {
		return conf, true
	}
	values, findings, err := e.evaluate(flat)
	if err != nil || len(findings) > 0 {
		c.locate(e, texts)
		if len(c.found) == before { // cannot be, but must not pass
			c.refuse(Violation{"references", "", "has a reference that cannot be resolved", "write values out"})
		}
		return nil, false
	}
	c.values = make(map[string]any, len(texts))
	for i, t := range texts {
		c.values[t.text] = values[strconv.Itoa(i)]
	}
	next := 0
	expanded, _ := replace(conf, func(string) any {
		next++
		return values[strconv.Itoa(next-1)]
	}).(map[string]any)
	c.escaped(e, expanded)
	return expanded, len(c.found) == before
}

// replace returns value with the texts that have a reference replaced, in the
// order in which walk visits them.
func replace(value any, by func(string) any) any {
	switch v := value.(type) {
	case string:
		if strings.Contains(v, "${") {
			return by(v)
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			out[key] = replace(v[key], by)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = replace(x, by)
		}
		return out
	}
	return value
}

// locate finds the texts with references that are refused.
func (c *check) locate(e *evaluator, texts []text) {
	for _, t := range texts {
		if c.more {
			return
		}
		_, findings, err := e.evaluate(map[string]any{"v": t.text})
		for _, f := range findings {
			c.refuse(Violation{f.rule, t.path, f.found, f.remedy})
		}
		if err != nil && len(findings) == 0 {
			c.refuse(Violation{"references", t.path, "has a reference that cannot be resolved", "the schemes that can are in policy::schemes::allow"})
		}
	}
}

// escaped checks what is left of $${…}: it is no reference any more, until
// something expands it once more.
func (c *check) escaped(e *evaluator, expanded map[string]any) {
	e.escaped = true
	defer func() { e.escaped = false }()
	walk("", expanded, func(path string, value any) {
		left, ok := value.(string)
		for ok && strings.Contains(left, "${") && !c.more {
			if strings.Count(left, "}") > maxBraces {
				return // of no use to whatever would expand it
			}
			once, findings, err := e.evaluate(map[string]any{"v": left})
			for _, f := range findings {
				c.refuse(Violation{f.rule, path, f.found + " that is escaped", "write $NAME without braces if it is no reference"})
			}
			next, isText := once["v"].(string)
			if err != nil || !isText || next == left {
				return
			}
			left = next
		}
	})
}

// finding is a reference that is refused.
type finding struct{ rule, found, remedy string }

// evaluator resolves references without reading anything but variables that may
// be named.
type evaluator struct {
	policy     *Policy
	local      Local
	references int  // how many the whole configuration has at most
	escaped    bool // what is looked at are texts that were escaped
	resolver   *confmap.Resolver

	root     map[string]any // what the next Retrieve of the root scheme returns
	findings []finding
}

func newEvaluator(p *Policy, local Local) *evaluator {
	e := &evaluator{policy: p, local: local}
	schemes := slices.Clone(knownSchemes)
	for _, scheme := range append([]string{"env"}, p.settings.Schemes.Allow...) {
		if !slices.Contains(schemes, scheme) {
			schemes = append(schemes, scheme)
		}
	}
	var factories []confmap.ProviderFactory
	for _, scheme := range schemes {
		factories = append(factories, confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider {
			return &source{evaluator: e, scheme: scheme}
		}))
	}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs: []string{rootScheme + ":"}, ProviderFactories: factories, DefaultScheme: "env",
	})
	if err != nil {
		panic(err) // all schemes are valid
	}
	e.resolver = resolver
	return e
}

// evaluate returns conf with its references resolved, and what is wrong with
// them. The error may hold values.
func (e *evaluator) evaluate(conf map[string]any) (map[string]any, []finding, error) {
	e.root, e.findings = conf, nil
	resolved, err := e.resolver.Resolve(context.Background())
	if err != nil {
		return nil, e.findings, err
	}
	return resolved.ToStringMap(), e.findings, nil
}

func (e *evaluator) find(rule, found, remedy string) {
	f := finding{rule, found, remedy}
	if len(e.findings) < maxViolations && !slices.Contains(e.findings, f) {
		e.findings = append(e.findings, f)
	}
}

// source is the provider of one scheme.
type source struct {
	evaluator *evaluator
	scheme    string
}

// Scheme implements [confmap.Provider].
func (s *source) Scheme() string { return s.scheme }

// Shutdown implements [confmap.Provider].
func (*source) Shutdown(context.Context) error { return nil }

// Retrieve implements [confmap.Provider].
func (s *source) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	e := s.evaluator
	if s.scheme == rootScheme && e.root != nil {
		root := e.root
		e.root = nil // a reference to this scheme is none to the root
		return confmap.NewRetrieved(root)
	}
	value := strings.TrimPrefix(uri, s.scheme+":")
	if s.scheme == "env" && e.escaped {
		if name, _, _ := strings.Cut(value, ":-"); !variableName.MatchString(name) {
			return confmap.NewRetrieved("") // such as ${1} in a replacement
		}
	}
	if !slices.Contains(e.policy.settings.Schemes.Allow, s.scheme) {
		e.find("schemes", fmt.Sprintf("has a reference with the scheme %q", s.scheme),
			remedyScheme)
		return confmap.NewRetrieved("")
	}
	if strings.Contains(uri, unknownValue) {
		e.find("schemes", "has a reference with a value of a connection in it", "do not nest it")
		return confmap.NewRetrieved("")
	}
	if s.scheme == agentScheme {
		if refersToMore("${"+uri+"}", e.local.Needs) {
			e.find("schemes", foundNoValue, remedyNoValue)
		}
		return confmap.NewRetrieved(unknownValue)
	}
	if s.scheme != "env" {
		return confmap.NewRetrieved(unknown)
	}
	return e.variable(value)
}

// variable is what the Collector's provider of variables returns.
func (e *evaluator) variable(reference string) (*confmap.Retrieved, error) {
	name, fallback, hasFallback := strings.Cut(reference, ":-")
	if found, remedy := e.policy.variable(name); found != "" {
		e.find("env", "has a reference to "+found, remedy)
		return confmap.NewRetrieved("")
	}
	if hasFallback && !scalar(fallback) {
		e.find("env", "has a reference with a default that is no plain value", "write maps and lists out")
		return confmap.NewRetrieved("")
	}
	value, set := e.local.LookupEnv(name)
	switch {
	case !set && hasFallback && fallback == "":
		return confmap.NewRetrieved("")
	case !set:
		value = fallback
	case e.references*len(value) > maxExpanded:
		e.find("limits", "has too many references to a variable with a long value", "use fewer")
		return confmap.NewRetrieved("")
	}
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(value))
	if err != nil {
		return nil, err
	}
	raw, err := retrieved.AsRaw()
	if err != nil {
		return nil, err
	}
	again := strings.Contains(value, "${")
	walk("", raw, func(_ string, v any) {
		if text, ok := v.(string); ok && strings.Contains(text, "${") {
			again = true
		}
	})
	if again {
		e.find("env", fmt.Sprintf("has a reference to the variable %q, whose value has a reference itself", short(name)), "write the value out, or change the variable")
		return confmap.NewRetrieved("")
	}
	return retrieved, nil
}

// variable says why a variable may not be named; empty if it may.
func (p *Policy) variable(name string) (found, remedy string) {
	env := p.settings.Env
	upper := strings.ToUpper
	switch {
	case !variableName.MatchString(name):
		return "a variable whose name is not valid", "use letters, digits and _"
	case slices.ContainsFunc(env.Deny, func(pattern string) bool { return match(upper(pattern), upper(name)) }):
		return fmt.Sprintf("the variable %q, which is denied", short(name)), "use another variable, or change policy::env::deny locally"
	case !matchAny(env.Allow, name):
		return fmt.Sprintf("the variable %q, which is not allowed", short(name)), "use another variable, such as OTELCOL_REMOTE_…, or add it to policy::env::allow locally"
	}
	return "", ""
}

// scalar reports whether a default is one value: structures could have what is
// a reference only once they are decoded, or grow while they are.
func scalar(text string) bool {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil || len(node.Content) == 0 {
		return true // confmap takes such a text as it is
	}
	return node.Content[0].Kind == yaml.ScalarNode && len(node.Content[0].Content) == 0
}

func short(name string) string {
	if len(name) > maxName {
		return name[:maxName] + "…"
	}
	return name
}

// CheckText returns a [RefusalError] if a text that is no part of a configuration,
// such as a header of an offered connection, has a reference that is not allowed.
// Path says where the text is.
func (p *Policy) CheckText(path, text string, lookup func(string) (string, bool)) error {
	c := &check{policy: p, local: Local{LookupEnv: lookup}}
	c.references(map[string]any{"v": text})
	for i := range c.found {
		c.found[i].Path = path
	}
	return c.refusal()
}

// Components read variables in ways of their own, too.
var (
	// expressionTypes are receivers whose strings may be expressions with a
	// function env.
	expressionTypes = []string{"filelog", "journald", "syslog", "tcplog", "udplog", "namedpipe", "windowseventlog"}
	// envFunction matches that function as whatever an expression calls it:
	// a word that is no field and no text, or the map of all names.
	envFunction = regexp.MustCompile(`(^|[^.\w"'])env\b|\$env\b|os_env_func`)
	// dollar matches what os.Expand expands.
	dollar = regexp.MustCompile(`\$(?:\{([^}]*)\}|(\w+))`)
)

// expressions checks how components read variables besides ${…}.
func (c *check) expressions(expanded map[string]any) {
	receivers, _ := expanded["receivers"].(map[string]any)
	for id, block := range receivers {
		typ, _, _ := strings.Cut(id, "/")
		typ = canonicalType("receivers", typ)
		path := join("receivers", id)
		fields, _ := block.(map[string]any)
		if _, operators := fields["operators"]; operators || slices.Contains(expressionTypes, typ) {
			c.expressionsIn(path, block)
		}
		if typ == "prometheus" {
			c.externalLabels(path, fields)
		}
	}
	for _, section := range sections {
		walk(section, expanded[section], func(path string, value any) {
			m, _ := value.(map[string]any)
			for key, v := range m {
				if name, ok := v.(string); ok && name != "" && strings.HasSuffix(key, "env_var") {
					c.named(join(path, key), name)
				}
			}
		})
	}
}

func (c *check) expressionsIn(path string, block any) {
	walk(path, block, func(path string, value any) {
		text, ok := value.(string)
		switch {
		case ok && strings.Contains(text, unknownValue):
			c.refuse(Violation{"schemes", path, "is a value of a connection where an expression may stand", "write it out"})
		case ok && strings.Contains(text, "(") && envFunction.MatchString(text):
			c.refuse(Violation{"env", path, "is an expression with the function env", "use a reference such as ${env:OTELCOL_REMOTE_…}"})
		}
	})
}

// externalLabels checks labels in which Prometheus expands $NAME and ${NAME}.
func (c *check) externalLabels(path string, fields map[string]any) {
	config, _ := fields["config"].(map[string]any)
	global, _ := config["global"].(map[string]any)
	walk(join(path, "config::global::external_labels"), global["external_labels"], func(path string, value any) {
		text, _ := value.(string)
		if strings.Contains(text, unknownValue) {
			c.refuse(Violation{"schemes", path, "is a value of a connection where a variable may be named", "write it out"})
		}
		for _, m := range dollar.FindAllStringSubmatch(text, -1) {
			c.named(path, m[1]+m[2])
		}
	})
}

// named checks the name of a variable that a component will read.
func (c *check) named(path, name string) {
	if found, remedy := c.policy.variable(name); found != "" {
		c.refuse(Violation{"env", path, "names " + found, remedy})
	}
}
