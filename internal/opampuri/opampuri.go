// Package opampuri reads what an opamp: URI says.
package opampuri

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Scheme is what the URIs begin with.
const Scheme = "opamp"

// URI is what a URI says.
type URI struct {
	// Name is the agent's.
	Name string
	// StateDir is an absolute path; empty if the URI does not say.
	StateDir string
	// Guard asks for a parent process that restarts this one.
	Guard bool
}

// Parse reads a URI:
//
//	URI       = "opamp:" [ name ] [ "?" parameter { "&" parameter } ]
//	parameter = "state_dir=" absolute-path | "guard=" ( "true" | "false" )
//
// Its errors name the URI and what to change.
func Parse(uri string) (URI, error) {
	rest, ok := strings.CutPrefix(uri, Scheme+":")
	if !ok {
		return URI{}, fmt.Errorf("%q uri is not supported by %q provider", uri, Scheme)
	}
	if rest, fragment, ok := strings.Cut(rest, "#"); ok {
		return URI{}, fmt.Errorf("parsing %q: values of connections such as %q are not supported yet: use %q", uri, "#"+fragment, Scheme+":"+rest)
	}
	name, query, hasQuery := strings.Cut(rest, "?")
	u := URI{Name: name}
	if !hasQuery {
		return u, nil
	}
	seen := map[string]bool{}
	for parameter := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(parameter, "=")
		if seen[key] {
			return URI{}, fmt.Errorf("parsing %q: parameter %q is given twice", uri, key)
		}
		seen[key] = true
		switch key {
		case "state_dir":
			if value == "" {
				return URI{}, fmt.Errorf("parsing %q: %w", uri, errNoStateDir)
			}
			if !filepath.IsAbs(value) {
				return URI{}, fmt.Errorf("parsing %q: state_dir %q is relative: give an absolute path", uri, value)
			}
			u.StateDir = value
		case "guard":
			if value != "true" && value != "false" {
				return URI{}, fmt.Errorf("parsing %q: guard is %q: give true or false", uri, value)
			}
			u.Guard = value == "true"
		default:
			return URI{}, fmt.Errorf("parsing %q: unknown parameter %q: there are state_dir and guard (quote the URI in shells)", uri, key)
		}
	}
	return u, nil
}

var errNoStateDir = errors.New("state_dir is empty: give an absolute path, or leave the parameter out")

// Check returns why URIs that are used together contradict each other; nil if they
// do not.
func Check(uris []URI) error {
	dirs := map[string]string{}
	for i, u := range uris {
		if dir, ok := dirs[u.Name]; ok && dir != u.StateDir {
			return fmt.Errorf("the agent %q is given two state folders: state_dir is %q in one opamp: URI and %q in another", u.Name, dir, u.StateDir)
		}
		dirs[u.Name] = u.StateDir
		if u.Guard && i > 0 && !uris[0].Guard {
			return errors.New("guard=true must be in the first opamp: URI: the agent of an earlier one runs already")
		}
	}
	return nil
}
