package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

// localExtensions returns the extensions that the local layers among the
// process's arguments enable, and whether that is known: a layer that is fetched
// from elsewhere, or a list that comes from a reference, hides it. As in the
// Collector, the last layer with a list wins; with the gate
// confmap.enableMergeAppendOption the lists of all layers count.
func localExtensions(args []string) (ids []string, known bool) {
	known = true
	merged := confmap.New() // replaces lists, or appends to them with a gate
	for _, uri := range configURIs(args) {
		layer, ok := localLayer(uri)
		if !ok {
			known = false
			continue
		}
		service, _ := layer["service"].(map[string]any)
		switch list := service["extensions"].(type) {
		case nil:
		case []any:
			if err := merged.Merge(confmap.NewFromStringMap(map[string]any{"service": map[string]any{"extensions": list}})); err != nil {
				known = false
			}
		default:
			known = false
		}
	}
	list, _ := merged.Get("service::extensions").([]any)
	for _, id := range list {
		ids = append(ids, strings.TrimSpace(fmt.Sprint(id)))
	}
	return ids, known
}

// configURIs returns the values of --config among the arguments, but for those
// that the provider itself serves.
func configURIs(args []string) []string {
	return slices.DeleteFunc(configValues(args), func(uri string) bool { return strings.HasPrefix(uri, "opamp:") })
}

// configValues returns the values of --config among the arguments.
func configValues(args []string) []string {
	var uris []string
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name != "--config" && name != "-config" {
			continue
		}
		if !hasValue && i+1 < len(args) {
			i++
			value = args[i]
		}
		uris = append(uris, value)
	}
	return uris
}

// localReadable reports whether every local layer is known to be readable YAML.
func (a *Agent) localReadable() bool { return layersReadable(a.args()) }

func layersReadable(args []string) bool {
	for _, uri := range configURIs(args) {
		if _, ok := localLayer(uri); !ok {
			return false
		}
	}
	return true
}

// localLayer reads one layer, references unexpanded.
func localLayer(uri string) (map[string]any, bool) {
	text, ok := layerText(uri)
	if !ok {
		return nil, false
	}
	var layer map[string]any
	if err := yaml.Unmarshal([]byte(text), &layer); err != nil {
		return nil, false
	}
	return confmap.NewFromStringMap(layer).ToStringMap(), true
}

// layerText reads one layer as it is written.
func layerText(uri string) (string, bool) {
	text, isYAML := strings.CutPrefix(uri, "yaml:")
	if !isYAML {
		path := strings.TrimPrefix(uri, "file:")
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxLayer {
			return "", false
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return "", false
		}
		text = string(data)
	}
	return text, true
}

// ownID is the component ID of the extension that belongs to the agent called
// name.
func ownID(name string) string {
	if name == "" {
		return "opamp"
	}
	return "opamp/" + name
}

// managed reports whether an extension belongs to this agent in what is run: the
// local layers enable it, or, where that is not known, it was there before.
func (a *Agent) managed() bool {
	if a.safe {
		return true
	}
	if ids, known := localExtensions(a.args()); known && len(configURIs(a.args())) > 0 {
		return slices.Contains(ids, ownID(a.name))
	}
	return len(a.required) > 0
}

// keptExtensions are the extensions that a remote configuration cannot remove:
// all local ones, or, where they are not known, this one and those that the last
// start said it needs.
func keptExtensions(name string, args, required []string) []string {
	ids, known := localExtensions(args)
	switch {
	case known && len(configURIs(args)) > 0:
		return ids
	case known:
		return []string{ownID(name)}
	default:
		return append(append([]string{ownID(name)}, ids...), required...)
	}
}

// localSide is what the policy must know of the local side. The layers that are
// not known are left out.
func (a *Agent) localSide() policy.Local {
	side := policy.Local{
		Needs:      protected(a.name, a.args(), a.required),
		Extensions: keptExtensions(a.name, a.args(), a.required),
		Blocks:     map[string][]any{},
		LookupEnv:  os.LookupEnv,
	}
	side.Before, side.After = localLayers(a.name, a.args())
	var shown map[string]any
	_ = yaml.Unmarshal(a.reported.EffectiveConfig, &shown) // this agent wrote it
	shownBlocks, _ := shown["extensions"].(map[string]any)
	for _, blocks := range []map[string]any{localBlocks(a.name, a.args()), shownBlocks} {
		for _, id := range side.Needs {
			if block, ok := blocks[id]; ok {
				side.Blocks[id] = append(side.Blocks[id], block)
			}
		}
	}
	return side
}

// localLayers returns the local layers among the arguments that are known, before
// and after the remote one of the agent called name, references unexpanded.
func localLayers(name string, args []string) (before, after []map[string]any) {
	layers := &before
	for _, uri := range configValues(args) {
		if at, err := opampuri.Parse(uri); err == nil {
			if at.Name == name {
				layers = &after
			}
			continue
		}
		if layer, ok := localLayer(uri); ok {
			*layers = append(*layers, layer)
		}
	}
	return before, after
}

// localBlocks returns the blocks of extensions in the local layers, as far as they
// are known.
func localBlocks(name string, args []string) map[string]any {
	before, after := localLayers(name, args)
	known := confmap.New()
	for _, layer := range append(before, after...) {
		// What a failure leaves out is refused when it comes back from a server.
		_ = known.Merge(confmap.NewFromStringMap(layer))
	}
	blocks, _ := known.ToStringMap()["extensions"].(map[string]any)
	return blocks
}

// protected are the extensions whose blocks a remote configuration cannot set:
// that of the agent called name, those it does not start without, and those that
// these name in their local blocks.
func protected(name string, args, required []string) []string {
	blocks := localBlocks(name, args)
	ids := []string{ownID(name)} // what its own block names is required, or part of the policy
	var add func(id string)
	mention := func(value any) {
		if id, ok := value.(string); ok {
			if _, ok := blocks[id]; ok {
				add(id)
			}
		}
	}
	add = func(id string) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
			leaves(blocks[id], mention)
		}
	}
	for _, id := range required {
		add(id)
	}
	return ids
}

// leaves calls visit for each leaf of value.
func leaves(value any, visit func(any)) {
	switch v := value.(type) {
	case map[string]any:
		for _, x := range v {
			leaves(x, visit)
		}
	case []any:
		for _, x := range v {
			leaves(x, visit)
		}
	default:
		visit(v)
	}
}

// policy is the one of the extension that was attached last.
func (a *Agent) policy() *policy.Policy {
	if p := a.settings.Policy; p != nil {
		return p
	}
	return policy.Default()
}

// verdictContext identifies what the verdict on an offer depends on besides the
// offer, the policy included.
func (a *Agent) verdictContext() string {
	return verdictContext(a.args()) + " " + a.policy().Fingerprint()
}
