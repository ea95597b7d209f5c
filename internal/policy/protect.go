package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
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
	if path, ok := refersToAgent(conf, needs); ok {
		return nil, fmt.Errorf("%q refers to ${opamp:…}, which a remote configuration may not", path)
	}
	return conf, nil
}

const (
	// agentScheme is the one of what agents serve themselves.
	agentScheme = "opamp"
	// agentReference begins a reference with this scheme.
	agentReference = "${" + agentScheme + ":"
)

// connectionValue matches a reference to one value of a connection: the name of an
// agent, no parameters, and nothing nested.
var connectionValue = regexp.MustCompile(`\$\{` + agentScheme + `:([^${}#]*)#[^${}]+\}`)

// refersToMore reports whether a text refers to what agents serve, other than
// values of connections of the agent whose extension is among needs.
func refersToMore(text string, needs []string) bool {
	rest := connectionValue.ReplaceAllStringFunc(text, func(reference string) string {
		id := agentScheme
		if name := connectionValue.FindStringSubmatch(reference)[1]; name != "" {
			id += "/" + name
		}
		if slices.Contains(needs, id) {
			return ""
		}
		return reference
	})
	return strings.Contains(rest, agentReference)
}

func refersToAgent(conf map[string]any, needs []string) (at string, found bool) {
	walk("", conf, func(path string, value any) {
		if text, ok := value.(string); ok && !found && refersToMore(text, needs) {
			at, found = path, true
		}
	})
	return at, found
}

// KeepExtensions returns conf with the local extensions in its list of
// extensions, if it has one: the Collector replaces lists, and without these the
// agent would not start. No ID is in the list twice, so that the Collector finds
// none twice where it appends to lists (gate confmap.enableMergeAppendOption), and
// creates no extension twice.
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
	united := make([]any, 0, len(list)+len(local))
	have := map[string]bool{}
	add := func(id any) {
		if text := fmt.Sprint(id); !have[text] {
			united, have[text] = append(united, id), true
		}
	}
	for _, id := range list {
		if text, ok := id.(string); ok && !strings.Contains(text, "${") {
			id = trimmed(text)
		}
		add(id)
	}
	for _, id := range local {
		add(id)
	}
	return with(conf, "service", with(service, "extensions", united))
}
