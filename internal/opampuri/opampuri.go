// Package opampuri reads what an opamp: URI says.
package opampuri

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
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
	// Value is the path of one value of a connection; empty if the URI stands for
	// the configuration.
	Value string
	// Default is what the value is where none was offered; nil if there is no
	// default. It may be empty.
	Default *string
}

// Parse reads a URI:
//
//	URI        = "opamp:" [ name ] [ "?" parameter { "&" parameter } | "#" value-path [ ":-" default ] ]
//	parameter  = "state_dir=" absolute-path | "guard=" ( "true" | "false" )
//	value-path = connection "/" field
//	connection = "own_metrics" | "own_traces" | "own_logs" | "other_connections/" connection-name
//	field      = "endpoint" | "headers/" key | "proxy/url" | "other/" key |
//	             "tls/" ( "ca_file" | "cert_file" | "key_file" | "min_version" | "insecure_skip_verify" )
//
// The name of a connection is one of [ValidName]. Parse's errors name the URI and what
// to change.
func Parse(uri string) (URI, error) {
	rest, ok := strings.CutPrefix(uri, Scheme+":")
	if !ok {
		return URI{}, fmt.Errorf("%q uri is not supported by %q provider", uri, Scheme)
	}
	rest, fragment, isValue := strings.Cut(rest, "#")
	name, query, hasQuery := strings.Cut(rest, "?")
	if isValue {
		if hasQuery {
			return URI{}, fmt.Errorf("parsing %q: parameters belong to the opamp: URI of --config, not to that of a value: use %q", uri, Scheme+":"+name+"#"+fragment)
		}
		return parseValue(uri, name, fragment)
	}
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

func parseValue(uri, name, fragment string) (URI, error) {
	path, text, hasDefault := strings.Cut(fragment, ":-")
	if err := checkPath(path); err != nil {
		return URI{}, fmt.Errorf("parsing %q: %w", uri, err)
	}
	u := URI{Name: name, Value: path}
	if hasDefault {
		u.Default = &text
	}
	return u, nil
}

// others begins the paths of connections that have a name.
const others = "other_connections"

// connectionName matches the names that connections may have: they are part of paths
// of values and of files. 64 characters are more than IDs of components have.
var connectionName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// NameRule says in words what [ValidName] allows.
const NameRule = `the name of a connection must have 1 to 64 characters, which are letters, digits, ".", "_" or "-", and be neither "." nor ".."`

// ValidName reports whether a connection may have the name. "." and ".." are none:
// files are named after connections.
func ValidName(name string) bool {
	return connectionName.MatchString(name) && name != "." && name != ".."
}

// Fields of the part tls.
var tlsFields = []string{"ca_file", "cert_file", "key_file", "min_version", "insecure_skip_verify"}

func checkPath(path string) error {
	connection, rest, _ := strings.Cut(path, "/")
	switch connection {
	case "own_metrics", "own_traces", "own_logs":
		return checkField(path, rest)
	case others:
		name, field, ok := strings.Cut(rest, "/")
		if !ok || name == "" {
			return fmt.Errorf("the value %q needs a name and a field: write %s/<name>/endpoint, for example", path, others)
		}
		if !ValidName(name) {
			return fmt.Errorf("the value %q: %q is no name of a connection: %s", path, name, NameRule)
		}
		err := checkField(path, field)
		if err != nil && strings.Contains(field, "/") { // perhaps meant for a part of the name
			return fmt.Errorf("%w; %s", err, NameRule)
		}
		return err
	default:
		return fmt.Errorf("the value %q begins with none of own_metrics, own_traces, own_logs and %s", path, others)
	}
}

// Field returns the part of a valid path of a value that follows the connection,
// such as "endpoint"; empty if the path is not valid.
func Field(path string) string {
	if checkPath(path) != nil {
		return ""
	}
	connection, field, _ := strings.Cut(path, "/")
	if connection == others {
		_, field, _ = strings.Cut(field, "/")
	}
	return field
}

func checkField(path, field string) error {
	part, key, hasKey := strings.Cut(field, "/")
	switch {
	case field == "endpoint", field == "proxy/url":
		return nil
	case part == "headers" && hasKey:
		if key == "" || strings.Contains(key, "/") {
			return fmt.Errorf("the value %q: %q is no name of a header", path, key)
		}
		return nil
	case part == "other" && hasKey && key != "":
		return nil
	case part == "tls" && slices.Contains(tlsFields, key):
		return nil
	case part == "tls":
		return fmt.Errorf("the value %q: tls has no field %q: there are %s", path, key, strings.Join(tlsFields, ", "))
	default:
		return fmt.Errorf("the value %q: there is no field %q: there are endpoint, headers/<key>, tls/<field>, proxy/url and other/<key>", path, field)
	}
}

var errNoStateDir = errors.New("state_dir is empty: give an absolute path, or leave the parameter out")

// Check returns why URIs of --config contradict each other, or are none of a
// configuration; nil if they are neither.
func Check(uris []URI) error {
	dirs := map[string]string{}
	for i, u := range uris {
		if u.Value != "" {
			uri := Scheme + ":" + u.Name + "#" + u.Value
			return fmt.Errorf("--config=%s is a value and no configuration: write ${%s} where it belongs in a configuration", uri, uri)
		}
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
