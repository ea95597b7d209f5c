// Package effectiveconfig makes the view of the running configuration that a
// server may see.
//
// In the view "references" every value that came from a ${…} reference is
// shown as the reference, so that values of environment variables and files
// stay where they are; fields that the Collector knows to be secret are
// redacted by the Collector itself, and the userinfo of URLs is masked here.
// Other literals in plain fields are shown.
package effectiveconfig

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// View says how much of the configuration is shown.
type View string

// The views.
const (
	// References shows references instead of what they stand for.
	References View = "references"
	// Expanded shows what references stand for.
	Expanded View = "expanded"
)

// Masked stands for a value that is not known to be harmless.
const Masked = "[REDACTED]"

// userinfo matches the user and password of a URL.
var userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s"']+@`)

// Snapshot is a configuration as the Collector hands it out.
type Snapshot struct {
	// Effective has all defaults, references expanded, secrets redacted.
	Effective map[string]any
	// Unexpanded is what users wrote, references intact, secrets redacted. It
	// may be nil if the host does not provide it.
	Unexpanded map[string]any
}

// YAML returns the snapshot in the given view. Its argument is not modified.
func (s Snapshot) YAML(view View) ([]byte, error) {
	var shown any = s.Effective
	if view != Expanded {
		shown = s.references()
	}
	data, err := yaml.Marshal(mask(shown))
	if err != nil {
		return nil, fmt.Errorf("encoding effective configuration: %w", err)
	}
	return data, nil
}

// references lays the references over the effective configuration, block by
// block. A block (a component, or a part of the service section) whose
// effective form differs so much from the written one that a reference has no
// place in it is shown as it was written: its components move values around
// while they decode, and one that was moved must not slip through.
func (s Snapshot) references() map[string]any {
	if s.Unexpanded == nil {
		// What came from a reference cannot be told: show keys only.
		return hide(s.Effective).(map[string]any)
	}
	out := make(map[string]any, len(s.Effective))
	maps.Copy(out, s.Effective)
	for section, written := range s.Unexpanded {
		out[section] = overlaySection(s.Effective[section], written)
	}
	return out
}

func overlaySection(effective, written any) any {
	blocks, ok1 := effective.(map[string]any)
	writtenBlocks, ok2 := written.(map[string]any)
	if !ok1 || !ok2 {
		return overlayBlock(effective, written)
	}
	out := make(map[string]any, len(blocks))
	maps.Copy(out, blocks)
	for id, block := range writtenBlocks {
		out[id] = overlayBlock(blocks[id], block)
	}
	return out
}

func overlayBlock(effective, written any) any {
	if !hasReference(written) {
		return effective
	}
	if out, ok := overlay(effective, written); ok {
		return out
	}
	return written
}

// overlay returns effective with every reference of written in its place; ok is
// false if one has none.
func overlay(effective, written any) (out any, ok bool) {
	switch w := written.(type) {
	case string:
		if !isReference(w) {
			return effective, true
		}
		return w, effective != nil
	case map[string]any:
		e, isMap := effective.(map[string]any)
		if !isMap {
			return nil, !hasReference(w)
		}
		merged := make(map[string]any, len(e))
		maps.Copy(merged, e)
		for key, value := range w {
			if !hasReference(value) {
				continue
			}
			inner, exists := e[key]
			if !exists {
				return nil, false
			}
			if merged[key], ok = overlay(inner, value); !ok {
				return nil, false
			}
		}
		return merged, true
	case []any:
		e, isList := effective.([]any)
		if !isList || len(e) != len(w) {
			return nil, !hasReference(w)
		}
		merged := make([]any, len(e))
		for i := range e {
			if merged[i], ok = overlay(e[i], w[i]); !ok {
				return nil, false
			}
		}
		return merged, true
	default:
		return effective, true
	}
}

// isReference reports whether a text has a reference in it. "$${" is an
// escaped one, but a text with an escape is treated with the same care.
func isReference(s string) bool { return strings.Contains(s, "${") }

func hasReference(value any) bool {
	switch v := value.(type) {
	case string:
		return isReference(v)
	case map[string]any:
		for _, x := range v {
			if hasReference(x) {
				return true
			}
		}
	case []any:
		if slices.ContainsFunc(v, hasReference) {
			return true
		}
	}
	return false
}

// hide returns value with every leaf masked.
func hide(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			out[key] = hide(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = hide(x)
		}
		return out
	default:
		return Masked
	}
}

// mask returns value with the userinfo of URLs masked.
func mask(value any) any {
	switch v := value.(type) {
	case string:
		return userinfo.ReplaceAllString(v, "${1}"+Masked+"@")
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			out[key] = mask(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = mask(x)
		}
		return out
	default:
		return value
	}
}
