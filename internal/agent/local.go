package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"
)

// localExtensions returns the extensions that the local layers among the
// process's arguments enable, and whether that is known: a layer that is fetched
// from elsewhere, or a list that comes from a reference, hides it. As in the
// Collector, the last layer with a list wins.
func localExtensions(args []string) (ids []string, known bool) {
	known = true
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
			ids = nil
			for _, id := range list {
				ids = append(ids, strings.TrimSpace(fmt.Sprint(id)))
			}
		default:
			known = false
		}
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
func (a *Agent) localReadable() bool {
	for _, uri := range configURIs(a.args()) {
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

// acceptable returns conf as the Collector will understand it, or why it must
// not be merged: it would take the management of this Collector away.
func acceptable(conf map[string]any, own string) (map[string]any, error) {
	conf = confmap.NewFromStringMap(conf).ToStringMap() // "a::b" keys mean what they mean to the Collector
	for _, name := range []string{"service", "extensions"} {
		value, ok := conf[name]
		if !ok {
			continue
		}
		section, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%q must be a map of its own: null or a reference would replace what is managed locally", name)
		}
		if _, ok := section[own]; ok && name == "extensions" {
			return nil, fmt.Errorf("%q is managed locally: remove it from the remote configuration", "extensions::"+own)
		}
	}
	service, _ := conf["service"].(map[string]any)
	if value, ok := service["extensions"]; ok {
		if _, isList := value.([]any); !isList && value != nil {
			return nil, errors.New(`"service::extensions" must be a list`)
		}
	}
	if path, ok := refersToAgent("", conf); ok {
		return nil, fmt.Errorf("%q refers to ${opamp:…}, which a remote configuration may not", path)
	}
	return conf, nil
}

func refersToAgent(path string, value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return path, strings.Contains(v, "${opamp:")
	case map[string]any:
		for key, x := range v {
			if p, ok := refersToAgent(strings.TrimPrefix(path+"::"+key, "::"), x); ok {
				return p, true
			}
		}
	case []any:
		for _, x := range v {
			if p, ok := refersToAgent(path, x); ok {
				return p, true
			}
		}
	}
	return "", false
}

// keepExtensions returns conf with the local extensions in its list of
// extensions, if it has one: the Collector replaces lists, and without these
// the agent would not start.
func keepExtensions(conf map[string]any, local []string) map[string]any {
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
		have[strings.TrimSpace(fmt.Sprint(id))] = true
	}
	united := append([]any(nil), list...)
	for _, id := range local {
		if !have[id] {
			united, have[id] = append(united, id), true
		}
	}
	return with(conf, "service", with(service, "extensions", united))
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
