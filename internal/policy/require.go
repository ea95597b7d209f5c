package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

func (r *Requirement) kind() string {
	if r.Kind == "" {
		return "processor"
	}
	return r.Kind
}

// concerns reports whether the requirement is about a pipeline: a pattern means a
// signal, and so all its pipelines, or an ID.
func (r *Requirement) concerns(pipeline string) bool {
	signal, _, _ := strings.Cut(pipeline, "/")
	return len(r.Pipelines) == 0 || matchAny(r.Pipelines, signal) || matchAny(r.Pipelines, pipeline)
}

// met reports whether a list of components has the required one in its place.
func (r *Requirement) met(list []any) bool {
	section := r.kind() + "s"
	is := func(id any) bool {
		text, ok := id.(string)
		return ok && matchesComponent(section, r.Component, trimmed(text))
	}
	switch {
	case len(list) == 0:
		return false
	case r.Position == "first":
		return is(list[0])
	case r.Position == "last":
		return is(list[len(list)-1])
	default:
		return slices.ContainsFunc(list, is)
	}
}

// requirements checks the pipelines that the remote configuration changes or
// adds, in what they become when all layers are merged.
func (c *check) requirements(conf map[string]any) {
	if len(c.policy.settings.Require) == 0 {
		return
	}
	// The Collector merges what is written, and resolves references afterwards.
	local, err := merge(slices.Concat(c.local.Before, c.local.After))
	outcome, mergeErr := merge(slices.Concat(c.local.Before, []map[string]any{conf}, c.local.After))
	if err != nil || mergeErr != nil {
		c.refuse(Violation{"require", "service::pipelines", "cannot be merged with the local configuration", "write lists of components as lists"})
		return
	}
	changed, localPipelines, outcomePipelines := pipelines(conf), pipelines(local), pipelines(outcome)
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		for i := range c.policy.settings.Require {
			r := &c.policy.settings.Require[i]
			if !r.concerns(id) {
				continue
			}
			role := r.kind() + "s"
			remote, _ := changed[id].(map[string]any)
			_, sets := remote[role]
			_, exists := localPipelines[id]
			if !sets && exists {
				continue // as the local configuration has it
			}
			pipeline, _ := outcomePipelines[id].(map[string]any)
			list, _ := replace(pipeline[role], c.valueOf).([]any)
			if !r.met(list) {
				place := ""
				if r.Position == "first" || r.Position == "last" {
					place = " in the " + r.Position + " place"
				}
				c.refuse(Violation{"require", join("service::pipelines", join(id, role)), "lacks the required " + r.kind() + " " + r.Component + place, "add it"})
			}
		}
	}
}

// valueOf returns what a text with references stands for; the text if it is not one
// of the remote configuration.
func (c *check) valueOf(text string) any {
	if value, ok := c.values[text]; ok {
		return value
	}
	return text
}

func pipelines(conf map[string]any) map[string]any {
	service, _ := conf["service"].(map[string]any)
	all, _ := service["pipelines"].(map[string]any)
	return all
}

// merge merges layers as the Collector does.
func merge(layers []map[string]any) (conf map[string]any, err error) {
	defer func() {
		// With the gate confmap.enableMergeAppendOption confmap panics where a list
		// is to be appended to null or a number.
		if r := recover(); r != nil {
			err = fmt.Errorf("merging layers: %v", r)
		}
	}()
	merged := confmap.New()
	for _, layer := range layers {
		if err := merged.Merge(confmap.NewFromStringMap(layer)); err != nil {
			return nil, fmt.Errorf("merging layers: %w", err)
		}
	}
	return merged.ToStringMap(), nil
}
