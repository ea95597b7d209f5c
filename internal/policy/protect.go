package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

// Protect returns conf, which was accepted before, as the Collector will
// understand it and without the blocks of the extensions called needs, or why it
// must not be merged: it would take the management of this Collector away. It is
// what remains of a policy where only what protects the agent is asked for.
func Protect(conf map[string]any, needs []string) (map[string]any, error) {
	conf = confmap.NewFromStringMap(conf).ToStringMap() // "a::b" keys mean what they mean to the Collector
	for _, name := range []string{"service", "extensions"} {
		if value, ok := conf[name]; ok {
			if _, ok := value.(map[string]any); !ok {
				return nil, fmt.Errorf("%q must be a map of its own: null or a reference would replace what is managed locally", name)
			}
		}
	}
	if extensions, ok := conf["extensions"].(map[string]any); ok {
		kept := maps.Clone(extensions)
		maps.DeleteFunc(kept, func(id string, _ any) bool { return slices.Contains(needs, trimmed(id)) })
		conf = with(conf, "extensions", kept)
	}
	service, _ := conf["service"].(map[string]any)
	if value, ok := service["extensions"]; ok {
		if _, isList := value.([]any); !isList && value != nil {
			return nil, errors.New(`"service::extensions" must be a list`)
		}
	}
	if path, ok := refersToAgent(conf); ok {
		return nil, fmt.Errorf("%q refers to ${opamp:…}, which a remote configuration may not", path)
	}
	return conf, nil
}

// agentReference begins a reference to what this agent serves itself.
const agentReference = "${opamp:"

func refersToAgent(conf map[string]any) (at string, found bool) {
	walk("", conf, func(path string, value any) {
		if text, ok := value.(string); ok && !found && strings.Contains(text, agentReference) {
			at, found = path, true
		}
	})
	return at, found
}

// KeepExtensions returns conf with the local extensions in its list of
// extensions, if it has one: the Collector replaces lists, and without these the
// agent would not start.
func KeepExtensions(conf map[string]any, local []string) map[string]any {
	service, ok := conf["service"].(map[string]any)
	if !ok {
		return conf
	}
	value, ok := service["extensions"]
	if !ok {
		return conf
	}
	list, _ := value.([]any)
	have := map[string]bool{}
	for _, id := range list {
		have[trimmed(fmt.Sprint(id))] = true
	}
	united := slices.Clone(list)
	for _, id := range local {
		if !have[id] {
			united, have[id] = append(united, id), true
		}
	}
	return with(conf, "service", with(service, "extensions", united))
}
