package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// Settings are what users write below `policy`. [DefaultSettings] returns the
// defaults; the zero value allows next to nothing.
type Settings struct {
	// Schemes are the providers that a ${scheme:…} may name.
	Schemes SchemeSettings `mapstructure:"schemes"`
	// Env are the variables that ${env:…} and ${…} may name.
	Env EnvSettings `mapstructure:"env"`
	// Components are those that a remote configuration may define.
	Components ComponentSettings `mapstructure:"components"`
	// Locked are configuration paths that a remote configuration may not set,
	// such as service::telemetry. A segment may be a pattern.
	Locked []string `mapstructure:"locked"`
	// Limits bound a remote configuration.
	Limits LimitSettings `mapstructure:"limits"`
	// Files are the paths that components may be given.
	Files FileSettings `mapstructure:"files"`
	// Listen are the addresses that components may listen on; nil allows all.
	Listen *AllowSettings `mapstructure:"listen"`
	// Require are the components that must stay in pipelines.
	Require []Requirement `mapstructure:"require"`
	// Connections are those that a server may offer.
	Connections ConnectionSettings `mapstructure:"connections"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// SchemeSettings are about references.
type SchemeSettings struct {
	// Allow are names of schemes. (default = [env])
	Allow []string `mapstructure:"allow"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// EnvSettings are patterns of names of environment variables. A variable may be
// named if it matches one of Allow and none of Deny.
type EnvSettings struct {
	Allow []string `mapstructure:"allow"`
	// Deny is matched without regard to case.
	Deny []string `mapstructure:"deny"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ComponentSettings are patterns of component types or IDs. A component may be
// defined if it matches one of Allow and none of Deny.
type ComponentSettings struct {
	Allow KindSettings `mapstructure:"allow"`
	Deny  KindSettings `mapstructure:"deny"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// KindSettings are patterns for each section.
type KindSettings struct {
	Receivers  []string `mapstructure:"receivers"`
	Processors []string `mapstructure:"processors"`
	Exporters  []string `mapstructure:"exporters"`
	Connectors []string `mapstructure:"connectors"`
	Extensions []string `mapstructure:"extensions"`

	// prevent unkeyed literal initialization
	_ struct{}
}

func (k *KindSettings) of(section string) []string {
	switch section {
	case "receivers":
		return k.Receivers
	case "processors":
		return k.Processors
	case "exporters":
		return k.Exporters
	case "connectors":
		return k.Connectors
	default:
		return k.Extensions
	}
}

// LimitSettings bound a remote configuration.
type LimitSettings struct {
	// MaxBytes bounds the size of all files together. (default = 4MiB)
	MaxBytes Size `mapstructure:"max_bytes"`
	// MaxDepth bounds how deep maps and lists are nested. (default = 64)
	MaxDepth int `mapstructure:"max_depth"`
	// MaxNodes bounds the number of keys and values, each alias counted as
	// what it stands for. (default = 100000)
	MaxNodes int `mapstructure:"max_nodes"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// FileSettings are the paths that components may be given; nil allows all.
type FileSettings struct {
	Read  *AllowSettings `mapstructure:"read"`
	Write *AllowSettings `mapstructure:"write"`
	// Execute are the programs that components may run. (default = none)
	Execute *AllowSettings `mapstructure:"execute"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// AllowSettings are patterns.
type AllowSettings struct {
	Allow []string `mapstructure:"allow"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// Requirement is a component that must stay in pipelines.
type Requirement struct {
	// Kind is receiver, processor or exporter. (default = processor)
	Kind string `mapstructure:"kind"`
	// Component is a pattern of a type or an ID.
	Component string `mapstructure:"component"`
	// Pipelines are patterns of signals or pipeline IDs. (default = all)
	Pipelines []string `mapstructure:"pipelines"`
	// Position is first, last or any. (default = any)
	Position string `mapstructure:"position"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ConnectionSettings say which connections a server may offer: to itself, for own
// telemetry, and others that have a name.
type ConnectionSettings struct {
	// Hosts are patterns of hosts, or of host:port. None means that the connection
	// to the server stays on the host of the local endpoint, and others may go to
	// any host; otherwise all must match, a proxy too. The connection to the server
	// may always use the host of the local endpoint. (default = none)
	Hosts AllowSettings `mapstructure:"hosts"`
	// MayWeakenTLS allows plain text, servers that are not verified, lower versions
	// of TLS and, for the connection to the server, other authorities.
	// (default = false)
	MayWeakenTLS bool `mapstructure:"may_weaken_tls"`
	// MayReplaceAuth allows the header Authorization, and a user name in the endpoint,
	// beside an extension that authenticates this agent; offered headers then replace
	// those of the extension. (default = false)
	MayReplaceAuth bool `mapstructure:"may_replace_auth"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// Size is a number of bytes.
type Size int64

var units = []struct {
	suffix string
	shift  uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}}

// UnmarshalText implements [encoding.TextUnmarshaler]: a number, or one with the
// unit KiB, MiB or GiB.
func (s *Size) UnmarshalText(text []byte) error {
	number, shift := strings.TrimSpace(string(text)), uint(0)
	for _, unit := range units {
		if n, ok := strings.CutSuffix(number, unit.suffix); ok {
			number, shift = strings.TrimSpace(n), unit.shift
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return fmt.Errorf("%q is not a size: write bytes, or a number with KiB, MiB or GiB", text)
	}
	*s = Size(n << shift)
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (s Size) MarshalText() ([]byte, error) {
	for _, unit := range slices.Backward(units) {
		if n := int64(s) >> unit.shift; n > 0 && n<<unit.shift == int64(s) {
			return fmt.Append(nil, n, unit.suffix), nil
		}
	}
	return strconv.AppendInt(nil, int64(s), 10), nil
}

// DefaultSettings returns the defaults.
func DefaultSettings() Settings {
	all := []string{"*"}
	return Settings{
		Schemes: SchemeSettings{Allow: []string{"env"}},
		Env: EnvSettings{
			Allow: []string{
				"OTELCOL_REMOTE_*", "HOSTNAME", "K8S_*", "POD_*", "MY_POD_IP", "MY_POD_NAME", "MY_NODE_NAME",
				"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
			},
			Deny: []string{"*TOKEN*", "*SECRET*", "*PASSWORD*", "*KEY*", "*HEADERS*", "*CREDENTIAL*"},
		},
		Components: ComponentSettings{Allow: KindSettings{Receivers: all, Processors: all, Exporters: all, Connectors: all, Extensions: all}},
		Limits: LimitSettings{
			MaxBytes: 4 << 20, // the largest configurations in use have some 100 KiB
			MaxDepth: 64,      // they are nested 12 deep
			MaxNodes: 100_000, // and have some 10,000
		},
		Files: FileSettings{Execute: &AllowSettings{}},
	}
}

var (
	schemeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+$`) // as confmap has it
	kinds      = []string{"receiver", "processor", "exporter"}
	positions  = []string{"any", "first", "last"}
)

// Validate says what is wrong, by path below the extension's block.
func (s *Settings) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("`policy::"+format, args...)) }
	for i, scheme := range s.Schemes.Allow {
		if !schemeName.MatchString(scheme) {
			add("schemes::allow::%d` must be the name of a scheme such as env, found %q", i, scheme)
		}
	}
	for key, n := range map[string]int64{"max_bytes": int64(s.Limits.MaxBytes), "max_depth": int64(s.Limits.MaxDepth), "max_nodes": int64(s.Limits.MaxNodes)} {
		if n <= 0 {
			add("limits::%s` must be positive, found %d", key, n)
		}
	}
	for _, list := range s.patternLists() {
		for i, pattern := range list.patterns {
			if pattern == "" || pattern != strings.TrimSpace(pattern) {
				add("%s::%d` must be a pattern without spaces around it, found %q", list.path, i, pattern)
			}
		}
	}
	for i, path := range s.Locked {
		if slices.Contains(strings.Split(path, separator), "") {
			add("locked::%d` must be a path such as service::telemetry, found %q", i, path)
		}
	}
	for key, allow := range map[string]*AllowSettings{"read": s.Files.Read, "write": s.Files.Write, "execute": s.Files.Execute} {
		if allow == nil {
			continue
		}
		for i, pattern := range allow.Allow {
			if !absolute(pattern) || hasParent(pattern) {
				add("files::%s::allow::%d` must be an absolute path without .. in it, found %q", key, i, pattern)
			}
		}
	}
	for i, pattern := range s.Connections.Hosts.Allow {
		if strings.ContainsAny(pattern, "/@") {
			add("connections::hosts::allow::%d` must be a host or host:port such as *.example.com, found %q", i, pattern)
		}
	}
	for i, r := range s.Require {
		switch {
		case r.Component == "":
			add("require::%d::component` must be given", i)
		case r.Kind != "" && !slices.Contains(kinds, r.Kind):
			add("require::%d::kind` must be one of %v, found %q", i, kinds, r.Kind)
		case r.Position != "" && !slices.Contains(positions, r.Position):
			add("require::%d::position` must be one of %v, found %q", i, positions, r.Position)
		case r.Position != "" && r.Position != "any" && r.Kind != "" && r.Kind != "processor":
			add("require::%d::position` must be any: only processors have an order", i)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

type patternList struct {
	path     string
	patterns []string
}

func (s *Settings) patternLists() []patternList {
	lists := []patternList{
		{"env::allow", s.Env.Allow},
		{"env::deny", s.Env.Deny},
		{"locked", s.Locked},
		{"connections::hosts::allow", s.Connections.Hosts.Allow},
	}
	for _, section := range sections {
		lists = append(lists,
			patternList{"components::allow::" + section, s.Components.Allow.of(section)},
			patternList{"components::deny::" + section, s.Components.Deny.of(section)})
	}
	if s.Listen != nil {
		lists = append(lists, patternList{"listen::allow", s.Listen.Allow})
	}
	for i, r := range s.Require {
		lists = append(lists, patternList{fmt.Sprintf("require::%d::pipelines", i), r.Pipelines})
	}
	return lists
}

// limits are those of the parser.
func (s *LimitSettings) limits() remoteconfig.Limits {
	return remoteconfig.Limits{Bytes: int(s.MaxBytes), Depth: s.MaxDepth, Nodes: s.MaxNodes}
}
