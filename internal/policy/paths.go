package policy

import (
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// paths checks the fields that components use as paths or addresses. A reference
// is judged by what it stands for.
func (c *check) paths(conf, expanded map[string]any) {
	s := &c.policy.settings
	if s.Files.Read == nil && s.Files.Write == nil && s.Files.Execute == nil && s.Listen == nil {
		return
	}
	for _, section := range append([]string{"service"}, sections...) {
		blocks, _ := expanded[section].(map[string]any)
		written, _ := conf[section].(map[string]any)
		for _, id := range slices.Sorted(maps.Keys(blocks)) {
			typ, _, _ := strings.Cut(id, "/")
			typ = canonicalType("", typ)
			for _, r := range rules {
				if (r.section != "*" && r.section != section) || (r.typ != "*" && r.typ != typ) {
					continue
				}
				if allow := c.allowed(r.access); allow != nil {
					c.field(fieldCheck{rule: r, allow: allow}, join(section, id), blocks[id], written[id], strings.Split(r.field, separator))
				}
			}
		}
	}
}

func (c *check) allowed(a access) *AllowSettings {
	s := &c.policy.settings
	switch a {
	case read:
		return s.Files.Read
	case write:
		return s.Files.Write
	case execute:
		return s.Files.Execute
	case listen:
		return s.Listen
	}
	return nil
}

type fieldCheck struct {
	rule  rule
	allow *AllowSettings
}

// field looks for the fields that match the rest of a rule's path. Written is what
// value came from, as far as it has the same form.
func (c *check) field(f fieldCheck, path string, value, written any, rest []string) {
	if text, ok := written.(string); ok && strings.Contains(text, "${") {
		if _, isText := value.(string); !isText && value != nil && f.rule.section != "*" {
			// A field that wants a text would be given another one than the value
			// that is judged here.
			c.refuse(Violation{string(f.rule.access), path, "is a reference to something that is no text", "write it out"})
			return
		}
	}
	if len(rest) == 0 {
		c.value(f, path, value)
		return
	}
	if rest[0] == "**" {
		c.field(f, path, value, written, rest[1:])
	}
	switch v := value.(type) {
	case map[string]any:
		w, _ := written.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			c.descend(f, join(path, key), key, v[key], w[key], rest)
		}
	case []any:
		w, _ := written.([]any)
		for i, x := range v {
			var from any
			if i < len(w) {
				from = w[i]
			}
			c.descend(f, join(path, "*"), "*", x, from, rest)
		}
	}
}

func (c *check) descend(f fieldCheck, path, key string, value, written any, rest []string) {
	if rest[0] == "**" {
		c.field(f, path, value, written, rest)
		return
	}
	if match(rest[0], key) {
		c.field(f, path, value, written, rest[1:])
	}
}

// value checks the value of a field.
func (c *check) value(f fieldCheck, path string, value any) {
	rule := string(f.rule.access)
	text, ok := value.(string)
	if !ok {
		switch value.(type) {
		case nil, []any, map[string]any: // the elements of lists have rules of their own
		default:
			if f.rule.section != "*" {
				c.refuse(Violation{rule, path, "is no text", "quote it"})
			}
		}
		return
	}
	if text == "" {
		return
	}
	if strings.Contains(text, unknown) {
		c.refuse(Violation{rule, path, "is a reference whose value is not known", "write it out"})
		return
	}
	if f.rule.access == listen {
		if !allowedAddress(f.allow.Allow, text) {
			c.refuse(Violation{rule, path, "is an address that is not allowed", "listen on another one, or add it to policy::listen::allow locally"})
		}
		return
	}
	if f.rule.section == "service" && (text == "stdout" || text == "stderr") {
		return
	}
	if !allowedPath(f.allow.Allow, text) {
		c.refuse(Violation{rule, path, "is a path that is not allowed", "use another one, or add it to policy::" + rule + "::allow locally"})
	}
}

// allowedAddress reports whether an address to listen on matches a pattern of a
// host, or of host:port. The pattern localhost means every loopback address.
func allowedAddress(allow []string, address string) bool {
	host, port := splitAddress(address)
	if host == "" {
		host = "0.0.0.0" // all interfaces
	}
	ip, err := netip.ParseAddr(host)
	loopback := strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
	return slices.ContainsFunc(allow, func(pattern string) bool {
		patternHost, patternPort := splitAddress(pattern)
		if patternPort != "" && !match(patternPort, port) {
			return false
		}
		return match(patternHost, host) || patternHost == "localhost" && loopback
	})
}

// splitAddress splits host:port, [host]:port and hosts without a port.
func splitAddress(address string) (host, port string) {
	if rest, ok := strings.CutPrefix(address, "["); ok {
		host, port, _ = strings.Cut(rest, "]")
		return host, strings.TrimPrefix(port, ":")
	}
	if strings.Count(address, ":") == 1 {
		host, port, _ = strings.Cut(address, ":")
		return host, port
	}
	return address, ""
}

// absolute and hasParent take both separators: a configuration may be written
// on another system than the one it is for.
func absolute(path string) bool { return strings.HasPrefix(path, "/") || filepath.IsAbs(path) }

func hasParent(path string) bool { return slices.Contains(segments(path), "..") }

func segments(path string) []string { return strings.Split(filepath.ToSlash(path), "/") }

// maxPath is the length in bytes of the longest path that Linux opens.
const maxPath = 4096

// metacharacters make a path a pattern.
const metacharacters = `*?[{\`

// allowedPath reports whether all that a path or a pattern can stand for matches
// one of the allowed patterns, in which * stands for a part of a name and ** for
// any number of names.
func allowedPath(allow []string, path string) bool {
	if len(path) > maxPath || strings.ContainsRune(path, 0) || strings.Contains(path, "://") {
		return false
	}
	want, ok := resolve(path)
	if !ok {
		return false
	}
	return slices.ContainsFunc(allow, func(pattern string) bool {
		have, ok := resolve(pattern)
		return ok && covers(have, want)
	})
}

// resolve returns the segments of an absolute path: symbolic links and .. are
// resolved as far as the path has no pattern and exists. It fails where .. stands
// behind that.
func resolve(path string) ([]string, bool) {
	if !filepath.IsAbs(path) {
		// Not filepath.Abs: it would resolve .. without regard to links.
		dir, err := filepath.Abs(".")
		if err != nil {
			return nil, false
		}
		path = dir + "/" + path
	}
	all := slices.DeleteFunc(segments(path), func(s string) bool { return s == "" || s == "." })
	plain := slices.IndexFunc(all, func(s string) bool { return strings.ContainsAny(s, metacharacters) })
	if plain < 0 {
		plain = len(all)
	}
	root := filepath.VolumeName(path) + "/"
	if root != "/" {
		all, plain = all[1:], plain-1 // the volume
	}
	for n := plain; n >= 0; n-- {
		existing, err := filepath.EvalSymlinks(root + strings.Join(all[:n], "/"))
		if err != nil {
			continue
		}
		rest := all[n:]
		for _, s := range rest {
			if strings.Contains(s, "..") && (s == ".." || strings.ContainsAny(s, metacharacters)) {
				return nil, false
			}
		}
		head := slices.DeleteFunc(segments(existing), func(s string) bool { return s == "" })
		return append(head, rest...), true
	}
	return nil, false
}

// covers reports whether a pattern matches everything that another one matches.
func covers(pattern, path []string) bool {
	if len(pattern) == 0 {
		return len(path) == 0
	}
	if pattern[0] == "**" {
		for i := 0; i <= len(path); i++ {
			if covers(pattern[1:], path[i:]) {
				return true
			}
		}
		return false
	}
	if len(path) == 0 || path[0] == "**" {
		return false
	}
	same := pattern[0] == path[0] || pattern[0] == "*" && !strings.ContainsAny(path[0], "{")
	if !strings.ContainsAny(path[0], metacharacters) {
		same = match(pattern[0], path[0])
	}
	return same && covers(pattern[1:], path[1:])
}
