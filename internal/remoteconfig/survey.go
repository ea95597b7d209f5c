package remoteconfig

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Limits bound an offer.
type Limits struct {
	// Bytes bounds the size of all files together.
	Bytes int
	// Depth bounds how deep maps and lists are nested.
	Depth int
	// Nodes bounds the number of keys and values of all files together, each
	// alias counted as what it stands for.
	Nodes int
}

// maxKeys bounds the keys of one map: the YAML library compares each with each.
const maxKeys = 10_000

// plainTags are those of plain data, which everybody reads alike.
var plainTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp", "!!merge"}

// extent is how large a node is when aliases are replaced by what they stand for.
type extent struct{ nodes, depth int }

// survey looks at documents before they are decoded.
type survey struct {
	limits Limits
	nodes  int
	// seen holds what was looked at; nodes that are being looked at are in it
	// without an extent.
	seen map[*yaml.Node]extent
}

func (s *survey) document(n *yaml.Node) error {
	for _, top := range n.Content {
		e, err := s.look(top, 1)
		if err != nil {
			return err
		}
		s.nodes += e.nodes
	}
	if s.nodes > s.limits.Nodes {
		return s.tooMany()
	}
	return nil
}

func (s *survey) tooMany() error {
	return fmt.Errorf("there are more than %d keys and values, aliases counted as what they stand for (rule limits::max_nodes): use fewer, or change the limit locally", s.limits.Nodes)
}

// look returns the extent of a node that is at a depth.
func (s *survey) look(n *yaml.Node, depth int) (extent, error) {
	target := n
	if n.Kind == yaml.AliasNode {
		target = n.Alias
	}
	e, seen := s.seen[target]
	if !seen {
		if depth > s.limits.Depth {
			return e, s.tooDeep(n)
		}
		s.seen[target] = extent{}
		if err := s.check(target); err != nil {
			return e, err
		}
		e = extent{nodes: 1, depth: 1}
		for _, child := range target.Content {
			inner, err := s.look(child, depth+1)
			if err != nil {
				return e, err
			}
			e.nodes += inner.nodes
			e.depth = max(e.depth, inner.depth+1)
			if e.nodes > s.limits.Nodes {
				return e, s.tooMany()
			}
		}
		s.seen[target] = e
	}
	if e == (extent{}) {
		return e, fmt.Errorf("line %d: %q stands for something that it is in", n.Line, n.Value)
	}
	if depth-1+e.depth > s.limits.Depth {
		return e, s.tooDeep(n)
	}
	return e, nil
}

func (s *survey) tooDeep(n *yaml.Node) error {
	return fmt.Errorf("line %d: maps and lists are nested deeper than %d (rule limits::max_depth): nest them less, or change the limit locally", n.Line, s.limits.Depth)
}

func (*survey) check(n *yaml.Node) error {
	if tag := n.ShortTag(); !slices.Contains(plainTags, tag) {
		return fmt.Errorf("line %d: the tag %q is not allowed (rule tags): write plain data", n.Line, tag)
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	if len(n.Content)/2 > maxKeys {
		return fmt.Errorf("line %d: a map has more than %d keys (rule limits): use fewer", n.Line, maxKeys)
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode || !slices.Contains([]string{"!!str", "!!merge"}, key.ShortTag()) {
			return fmt.Errorf("line %d: a key is not a string (rule keys): quote it", n.Content[i].Line)
		}
		if line, ok := lines[key.Value]; ok {
			return fmt.Errorf("line %d: the key %q is already defined at line %d (rule keys): remove one", n.Content[i].Line, key.Value, line)
		}
		lines[key.Value] = key.Line
	}
	return nil
}
