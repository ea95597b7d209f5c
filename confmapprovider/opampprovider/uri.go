package opampprovider

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

const schemeName = "opamp"

// location is what a URI says.
type location struct {
	name     string // the agent's
	stateDir string // empty if the URI does not say
}

// parse reads a URI by the grammar in [NewFactory]'s comment.
func parse(uri string) (location, error) {
	rest, ok := strings.CutPrefix(uri, schemeName+":")
	if !ok {
		return location{}, fmt.Errorf("%q uri is not supported by %q provider", uri, schemeName)
	}
	if rest, fragment, ok := strings.Cut(rest, "#"); ok {
		return location{}, fmt.Errorf("parsing %q: values of connections such as %q are not supported yet: use %q", uri, "#"+fragment, schemeName+":"+rest)
	}
	name, query, hasQuery := strings.Cut(rest, "?")
	l := location{name: name}
	if !hasQuery {
		return l, nil
	}
	seen := map[string]bool{}
	for parameter := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(parameter, "=")
		if seen[key] {
			return location{}, fmt.Errorf("parsing %q: parameter %q is given twice", uri, key)
		}
		seen[key] = true
		switch key {
		case "state_dir":
			if value == "" {
				return location{}, fmt.Errorf("parsing %q: %w", uri, errNoStateDir)
			}
			if !filepath.IsAbs(value) {
				return location{}, fmt.Errorf("parsing %q: state_dir %q is relative: give an absolute path", uri, value)
			}
			l.stateDir = value
		default:
			return location{}, fmt.Errorf("parsing %q: unknown parameter %q: the only one is state_dir (quote the URI in shells)", uri, key)
		}
	}
	return l, nil
}

var errNoStateDir = errors.New("state_dir is empty: give an absolute path, or leave the parameter out")
