package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// masked is what stands for a secret in what a server is shown.
const masked = "[REDACTED]"

// Rules that always hold.
const (
	ruleKeys     = "keys"
	ruleSections = "sections"
	ruleIDs      = "ids"
	ruleRedacted = "redacted"
	ruleLocked   = "locked"
)

// keys checks what must hold before the configuration can be normalized.
func (c *check) keys(conf map[string]any) {
	walk("", conf, func(path string, value any) {
		switch v := value.(type) {
		case map[any]any:
			c.refuse(Violation{ruleKeys, path, "has a key that is not a text", "quote the key"})
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				switch {
				case strings.Contains(key, separator), strings.HasPrefix(key, ":"), strings.HasSuffix(key, ":"):
					c.refuse(Violation{ruleKeys, join(path, key), "is a key that the Collector would split", "nest maps instead of writing ::"})
				case strings.Contains(key, "${"):
					c.refuse(Violation{ruleKeys, join(path, key), "is a key with a reference", "the Collector expands values only: write the key out"})
				}
			}
		case string:
			if refersToMore(v, c.local.Needs) { // also where it is not closed: Protect asks for no more
				c.agentReference(path)
			}
			if strings.Contains(v, masked) {
				c.refuse(Violation{ruleRedacted, path, "is what this agent shows instead of a secret", "write the value, or a reference to it"})
			}
		}
	})
}

// agentReference checks a text that refers to more than values of connections.
func (c *check) agentReference(path string) {
	if slices.Contains(c.policy.settings.Schemes.Allow, agentScheme) {
		c.refuse(Violation{"schemes", path, foundNoValue, remedyNoValue})
		return
	}
	c.refuse(Violation{"schemes", path, foundAgent, "write the value out"})
}

// What is said about references.
const (
	foundAgent    = "has a reference with the scheme \"" + agentScheme + "\""
	foundNoValue  = foundAgent + " that is no value of a connection of this agent"
	remedyNoValue = "name one value, such as ${opamp:#other_connections/backend/endpoint}"
	remedyScheme  = "write the value out, or allow the scheme in policy::schemes::allow locally"
)

// connectionValues checks where values of connections stand. They are texts that
// the server chose, and no part of what is judged here: they must be leaves, and
// neither IDs nor code.
func (c *check) connectionValues(expanded map[string]any) {
	walk("", expanded, func(path string, value any) {
		text, ok := value.(string)
		if !ok || !strings.Contains(text, unknownValue) {
			return
		}
		keys := strings.Split(path, separator)
		if len(keys) < 3 || keys[0] == "service" && keys[1] == "pipelines" { // a component has an ID and a setting
			c.refuse(Violation{"schemes", path, "is a value of a connection where a map or an ID must stand", "write it out"})
		}
	})
}

// shape checks that the sections are what the later rules take them for.
func (c *check) shape(conf map[string]any) {
	for _, name := range append([]string{"service"}, sections...) {
		value, ok := conf[name]
		if !ok {
			continue
		}
		if _, ok := value.(map[string]any); !ok {
			c.refuse(Violation{ruleSections, name, kind(value), "must be a map: anything else would replace what is local"})
		}
	}
	for _, section := range sections {
		blocks, _ := conf[section].(map[string]any)
		for _, id := range slices.Sorted(maps.Keys(blocks)) {
			c.id(join(section, id), id)
		}
	}
	service, _ := conf["service"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(service)) {
		c.servicePart(join("service", key), key, service[key])
	}
}

func (c *check) servicePart(path, key string, value any) {
	parts, isMap := value.(map[string]any)
	list, isList := value.([]any)
	switch {
	case key == "extensions" && isList:
		for i, id := range list {
			at := fmt.Sprintf("%s::%d", path, i)
			text, ok := id.(string)
			if !ok || strings.Contains(text, "${") {
				c.refuse(Violation{ruleSections, at, kind(id), "must be the ID of an extension"})
				continue
			}
			c.id(at, text)
		}
	case key == "extensions":
		c.refuse(Violation{ruleSections, path, kind(value), "must be a list: it is united with the local one"})
	case !isMap:
		c.refuse(Violation{ruleSections, path, kind(value), "must be a map: anything else would replace what is local"})
	case key == "pipelines":
		for _, id := range slices.Sorted(maps.Keys(parts)) {
			at := join(path, id)
			c.id(at, id)
			pipeline, ok := parts[id].(map[string]any)
			if !ok {
				c.refuse(Violation{ruleSections, at, kind(parts[id]), "must be a map: anything else would replace what is local"})
				continue
			}
			for _, role := range slices.Sorted(maps.Keys(pipeline)) {
				components, _ := pipeline[role].([]any)
				for i, component := range components {
					if text, ok := component.(string); ok && !strings.Contains(text, "${") {
						c.id(fmt.Sprintf("%s::%s::%d", at, role, i), text)
					}
				}
			}
		}
	}
}

// id refuses IDs that the Collector would trim: they would be other components
// for it than for the rules.
func (c *check) id(path, id string) {
	if id != trimmed(id) {
		c.refuse(Violation{ruleIDs, path, "is an ID with spaces", "remove them"})
	}
}

func trimmed(id string) string {
	typ, name, hasName := strings.Cut(id, "/")
	typ = strings.TrimSpace(typ)
	if !hasName {
		return typ
	}
	return typ + "/" + strings.TrimSpace(name)
}

// lockedPaths checks the paths that are managed locally.
func (c *check) lockedPaths(conf map[string]any) {
	for _, id := range c.local.Needs {
		c.lockedPath("", conf, []string{"extensions", id}, false,
			"is managed locally: this agent does not start without it", "remove it from the remote configuration")
	}
	for _, path := range c.policy.locked {
		c.lockedPath("", conf, path, true, "is locked", "remove it from the remote configuration, or from policy::locked of the local one")
	}
	for _, r := range c.policy.settings.Require {
		section := r.kind() + "s"
		blocks, _ := conf[section].(map[string]any)
		for _, id := range slices.Sorted(maps.Keys(blocks)) {
			if matchesComponent(section, r.Component, id) {
				c.refuse(Violation{"require", join(section, id), "is required, and so defined locally only", "remove it from the remote configuration"})
			}
		}
	}
}

func (c *check) lockedPath(path string, value any, rest []string, patterns bool, found, remedy string) {
	if len(rest) == 0 {
		c.refuse(Violation{ruleLocked, path, found, remedy})
		return
	}
	first, below := rest[0], rest[1:]
	m, ok := value.(map[string]any)
	if !ok {
		c.refuse(Violation{ruleLocked, path, kind(value) + " and stands for something that is locked", "write a map without the locked part"})
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key == first || patterns && match(first, key) {
			c.lockedPath(join(path, key), m[key], below, patterns, found, remedy)
		}
	}
}

// components checks which components are defined.
func (c *check) components(conf map[string]any) {
	for _, section := range sections {
		allow, deny := c.policy.settings.Components.Allow.of(section), c.policy.settings.Components.Deny.of(section)
		blocks, _ := conf[section].(map[string]any)
		for _, id := range slices.Sorted(maps.Keys(blocks)) {
			is := func(pattern string) bool { return matchesComponent(section, pattern, id) }
			switch {
			case slices.ContainsFunc(deny, is):
				c.refuse(Violation{"components::deny", join(section, id), "is a component that is denied", "use another one, or change policy::components::deny::" + section + " locally"})
			case !slices.ContainsFunc(allow, is):
				c.refuse(Violation{"components::allow", join(section, id), "is a component that is not allowed", "use another one, or change policy::components::allow::" + section + " locally"})
			}
		}
	}
}

// matchesComponent reports whether a pattern of a type or of an ID matches. A type
// has several names when it was renamed.
func matchesComponent(section, pattern, id string) bool {
	typ, name, hasName := strings.Cut(id, "/")
	if match(pattern, typ) || match(pattern, id) {
		return true
	}
	patternType, patternName, patternHasName := strings.Cut(pattern, "/")
	if canonicalType(section, patternType) != canonicalType(section, typ) {
		return false
	}
	return !patternHasName || hasName && match(patternName, name)
}

// canonicalType returns one name for all names of a type: the Collector's
// components were renamed from filelog to file_log, and so on.
func canonicalType(section, typ string) string {
	typ = strings.ReplaceAll(typ, "_", "")
	if section == "exporters" && typ == "otlp" {
		return "otlpgrpc"
	}
	return typ
}
