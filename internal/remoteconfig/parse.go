package remoteconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A ParseError says which file of an offer cannot be used and why.
type ParseError struct {
	// File is the name the server gave the file.
	File string
	// Err is the reason, with the line or the path in the file.
	Err error
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("remote configuration file %q: %v", e.File, e.Err)
}

// Unwrap returns the reason.
func (e *ParseError) Unwrap() error { return e.Err }

// Parse returns the configuration map of the offer. Files are merged in the
// order of their names, the one without a name last, later over earlier: maps
// are merged key by key, anything else is replaced, as in the Collector's own
// merge of several --config. Two files that give the same path a map on one
// side and something else on the other are refused.
//
// An offer without files, or whose files are all empty, gives an empty map:
// "local configuration only". Errors are [ParseError]s. The caller owns the
// result.
func (o Offer) Parse() (map[string]any, error) { return o.parse(nil) }

// ParseWithin is Parse for an offer of which nothing is known yet: it refuses
// what is larger than the limits, before it takes the memory, and what YAML leaves
// to the reader: several documents, tags beyond those of plain data, keys that are
// no text, keys given twice.
func (o Offer) ParseWithin(l Limits) (map[string]any, error) {
	size := 0
	for _, f := range o.files {
		if size += len(f.Body); size > l.Bytes {
			return nil, &ParseError{File: f.Name, Err: fmt.Errorf("all files together are larger than %d bytes (rule limits::max_bytes): make them smaller, or change the limit locally", l.Bytes)}
		}
	}
	s := survey{limits: l, seen: map[*yaml.Node]extent{}}
	return o.parse(s.document)
}

// parse shows each document to look, if that is not nil, before it decodes it.
func (o Offer) parse(look func(*yaml.Node) error) (map[string]any, error) {
	merged := map[string]any{}
	origin := map[string]string{} // path of each map or value → file that gave it last
	for _, f := range o.files {
		m, err := f.parse(look)
		if err != nil {
			return nil, &ParseError{File: f.Name, Err: err}
		}
		if err := merge(merged, m, "", f.Name, origin); err != nil {
			return nil, &ParseError{File: f.Name, Err: err}
		}
	}
	return merged, nil
}

// parse uses the YAML library of the Collector's confmap, so that no text means
// one thing here and another there.
func (f File) parse(look func(*yaml.Node) error) (map[string]any, error) {
	if !isYAML(f.ContentType) {
		return nil, fmt.Errorf("content type %q is not supported: send YAML as text/yaml", f.ContentType)
	}
	if len(bytes.TrimSpace(f.Body)) == 0 {
		return nil, nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(f.Body))
	var node yaml.Node
	if err := decoder.Decode(&node); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // nothing but comments
		}
		return nil, fmt.Errorf("parsing YAML: %w", err)
	}
	if look != nil {
		if err := look(&node); err != nil {
			return nil, fmt.Errorf("parsing YAML: %w", err)
		}
		if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return nil, errors.New("parsing YAML: there is a second document behind a line ---: put everything into one")
		}
	}
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, fmt.Errorf("parsing YAML: %w", err)
	}
	switch v := value.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	case map[any]any:
		return nil, errors.New("parsing YAML: a key at the top is not a string")
	default:
		return nil, fmt.Errorf("parsing YAML: the top is %s, not a map of sections such as receivers and service", kind(v))
	}
}

func isYAML(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	// The specification leaves the type to the agent; these are the ones in
	// use by servers, and the empty one means the agent's default.
	return slices.Contains([]string{"", "text/yaml", "text/x-yaml", "application/yaml", "application/x-yaml", "yaml", "text/plain"},
		strings.ToLower(strings.TrimSpace(mediaType)))
}

// merge merges src into dst. Origin is for the error's text only.
func merge(dst, src map[string]any, path, file string, origin map[string]string) error {
	for key, value := range src {
		at := key
		if path != "" {
			at = path + "::" + key
		}
		former, exists := dst[key]
		formerMap, formerIsMap := former.(map[string]any)
		valueMap, valueIsMap := value.(map[string]any)
		switch {
		case exists && formerIsMap && valueIsMap:
			if err := merge(formerMap, valueMap, at, file, origin); err != nil {
				return err
			}
			continue
		case exists && formerIsMap != valueIsMap && former != nil && value != nil:
			return fmt.Errorf("%q is %s here and %s in file %q: give both the same type, or remove one",
				at, kind(value), kind(former), origin[at])
		default:
			dst[key] = value
		}
		mark(value, at, file, origin)
	}
	return nil
}

func mark(value any, path, file string, origin map[string]string) {
	origin[path] = file
	if m, ok := value.(map[string]any); ok {
		for key, v := range m {
			mark(v, path+"::"+key, file, origin)
		}
	}
}

func kind(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case map[string]any, map[any]any:
		return "a map"
	case []any:
		return "a list"
	case string:
		return "a text"
	case bool:
		return "a boolean"
	default:
		return fmt.Sprintf("a value of type %T", value)
	}
}
