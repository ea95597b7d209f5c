package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// separator stands between the keys of a path, as in confmap.
const separator = "::"

// sections are those that hold components.
var sections = []string{"receivers", "processors", "exporters", "connectors", "extensions"}

// Policy judges remote configurations. It is immutable and safe for concurrent
// use.
type Policy struct {
	settings    Settings
	locked      [][]string
	fingerprint string
}

// New returns the policy of the settings, of which it takes ownership.
func New(s Settings) (*Policy, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	p := &Policy{settings: s}
	for _, path := range s.Locked {
		p.locked = append(p.locked, strings.Split(path, separator))
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the policy: %w", err)
	}
	sum := sha256.Sum256(data)
	p.fingerprint = hex.EncodeToString(sum[:])
	return p, nil
}

// Default returns the policy of the default settings.
func Default() *Policy {
	p, err := New(DefaultSettings())
	if err != nil {
		panic(err) // a test keeps the defaults valid
	}
	return p
}

// Fingerprint is equal for policies that judge alike.
func (p *Policy) Fingerprint() string { return p.fingerprint }

// Limits are those to parse an offer within.
func (p *Policy) Limits() remoteconfig.Limits { return p.settings.Limits.limits() }

// Local is what is known of the local side.
type Local struct {
	// Needs are the IDs of this agent's extension and of those it does not start
	// without: a remote configuration may not define them.
	Needs []string
	// Extensions are the IDs that stay in service::extensions.
	Extensions []string
	// Blocks are the forms in which the blocks of Needs are known, by ID: as they
	// are written, and as they were shown to the server.
	Blocks map[string][]any
	// Before and After are the local layers around the remote one, in the order
	// in which they are merged. They are not modified.
	Before, After []map[string]any
	// LookupEnv returns the value of an environment variable, as [os.LookupEnv].
	LookupEnv func(name string) (string, bool)
}

// Check returns conf as it is to be merged: without blocks that say what is local
// anyway, and with the local extensions in its list of extensions, if it has one.
// It returns a [RefusalError] if conf may not be merged. Conf is not modified.
func (p *Policy) Check(conf map[string]any, local Local) (map[string]any, error) {
	c := &check{policy: p, local: local}
	conf = dropIdentical(conf, local)
	c.keys(conf)
	if err := c.refusal(); err != nil {
		return nil, err // what such keys mean is not certain
	}
	c.shape(conf) // without such keys conf is normalized
	c.lockedPaths(conf)
	c.components(conf)
	if expanded, ok := c.references(conf); ok {
		c.connectionValues(expanded)
		c.expressions(expanded)
		c.paths(conf, expanded)
		c.requirements(conf)
	}
	if err := c.refusal(); err != nil {
		return nil, err
	}
	return KeepExtensions(conf, union(local.Extensions, local.Needs)), nil
}

// check is one run of Check.
type check struct {
	policy *Policy
	local  Local
	found  []Violation
	more   bool
	// values are what texts with references stand for.
	values map[string]any
}

func (c *check) refuse(v Violation) {
	if slices.Contains(c.found, v) {
		return
	}
	if len(c.found) == maxViolations {
		c.more = true
		return
	}
	c.found = append(c.found, v)
}

func (c *check) refusal() error {
	if len(c.found) == 0 {
		return nil
	}
	return &RefusalError{Violations: c.found, More: c.more}
}

// dropIdentical returns conf without blocks that say what is local anyway:
// servers send back what they were shown.
func dropIdentical(conf map[string]any, local Local) map[string]any {
	extensions, ok := conf["extensions"].(map[string]any)
	if !ok {
		return conf
	}
	kept := maps.Clone(extensions)
	for id, forms := range local.Blocks {
		block, ok := extensions[id]
		if ok && slices.ContainsFunc(forms, func(form any) bool { return reflect.DeepEqual(empty(form), empty(block)) }) {
			delete(kept, id)
		}
	}
	return with(conf, "extensions", kept)
}

// empty makes the two ways to write an empty block one.
func empty(block any) any {
	if block == nil {
		return map[string]any{}
	}
	return block
}

func with(m map[string]any, key string, value any) map[string]any {
	out := maps.Clone(m)
	out[key] = value
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, id := range b {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// join returns the path of a key.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + separator + key
}

// walk calls visit for value and everything below it, in a fixed order.
func walk(path string, value any, visit func(path string, value any)) {
	visit(path, value)
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			walk(join(path, key), v[key], visit)
		}
	case []any:
		for i, x := range v {
			walk(join(path, strconv.Itoa(i)), x, visit)
		}
	}
}

// kind says what a value is, without showing it.
func kind(value any) string {
	switch v := value.(type) {
	case nil:
		return "is null"
	case map[string]any:
		return "is a map"
	case []any:
		return "is a list"
	case string:
		if strings.Contains(v, "${") {
			return "is a reference"
		}
		return "is a text"
	default:
		return "is a value"
	}
}
