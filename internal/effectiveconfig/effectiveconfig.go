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
// place in it is shown as it was written: its component moves values around
// while it decodes, and one that was moved must not slip through. The host
// redacts what was written by comparing places, so that literals in such places
// are masked.
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
	stands := map[string]string{}
	if out, ok := overlay(effective, written, stands); ok {
		return withoutCopies(out, stands)
	}
	return asWritten(effective, written)
}

// asWritten returns written with the literals masked that have no place in
// effective.
func asWritten(effective, written any) any {
	switch w := written.(type) {
	case map[string]any:
		e, isMap := effective.(map[string]any)
		out := make(map[string]any, len(w))
		for key, value := range w {
			if inner, ok := e[key]; isMap && ok {
				out[key] = asWritten(inner, value)
			} else {
				out[key] = hideLiterals(value)
			}
		}
		return out
	case []any:
		e, isList := effective.([]any)
		if !isList || len(e) != len(w) {
			return hideLiterals(w)
		}
		out := make([]any, len(w))
		for i := range w {
			out[i] = asWritten(e[i], w[i])
		}
		return out
	default:
		switch effective.(type) {
		case map[string]any, []any, nil:
			return hideLiterals(written)
		}
		return written
	}
}

// minCopy is the length in bytes below which a value is no secret worth looking
// for: it would be found in ordinary words.
const minCopy = 6

// withoutCopies returns a block with references also where its component copied
// what they stand for.
func withoutCopies(block any, stands map[string]string) any {
	switch b := block.(type) {
	case string:
		for value, reference := range stands {
			if len(value) >= minCopy && !isReference(b) {
				b = strings.ReplaceAll(b, value, reference)
			}
		}
		return b
	case map[string]any:
		for key, value := range b {
			b[key] = withoutCopies(value, stands)
		}
		return b
	case []any:
		for i, value := range b {
			b[i] = withoutCopies(value, stands)
		}
		return b
	default:
		return block
	}
}

// overlay returns a copy of effective with every reference of written in its
// place, and notes what the references stand for; ok is false if one has no
// place.
func overlay(effective, written any, stands map[string]string) (out any, ok bool) {
	switch w := written.(type) {
	case string:
		if !isReference(w) {
			return clone(effective), true
		}
		if value, isText := effective.(string); isText && value != Masked {
			stands[value] = w
		}
		return w, effective != nil
	case map[string]any:
		e, isMap := effective.(map[string]any)
		if !isMap {
			return nil, !hasReference(w)
		}
		merged := clone(e).(map[string]any)
		for key, value := range w {
			if !hasReference(value) {
				continue
			}
			inner, exists := e[key]
			if !exists {
				return nil, false
			}
			if merged[key], ok = overlay(inner, value, stands); !ok {
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
			if merged[i], ok = overlay(e[i], w[i], stands); !ok {
				return nil, false
			}
		}
		return merged, true
	default:
		return clone(effective), true
	}
}

// clone returns a copy of maps and lists.
func clone(value any) any {
	return each(value, func(leaf any) any { return leaf })
}

// each returns a copy of value with f applied to every leaf.
func each(value any, f func(any) any) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			out[key] = each(x, f)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = each(x, f)
		}
		return out
	default:
		return f(value)
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
func hide(value any) any { return each(value, func(any) any { return Masked }) }

// hideLiterals returns value with every leaf masked that is no reference.
func hideLiterals(value any) any {
	return each(value, func(leaf any) any {
		if text, ok := leaf.(string); ok && isReference(text) {
			return text
		}
		return Masked
	})
}

// mask returns value with the userinfo of URLs masked.
func mask(value any) any {
	return each(value, func(leaf any) any {
		if text, ok := leaf.(string); ok {
			return userinfo.ReplaceAllString(text, "${1}"+Masked+"@")
		}
		return leaf
	})
}
