package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// maxViolations is how many violations a refusal lists: as many as fit into the
// text of a status.
const maxViolations = 10

// maxName is how much of a name that a server chose is shown, in bytes.
const maxName = 100

// Violation is one reason to refuse a configuration. It holds no value of the
// configuration, of a variable or of a file.
type Violation struct {
	// Rule is the path of the setting below `policy`, or the name of a rule that
	// always holds.
	Rule string
	// Path is where in the remote configuration, with :: between keys.
	Path string
	// Found says what is there.
	Found string
	// Remedy says what to change.
	Remedy string
}

func (v Violation) String() string {
	path := v.Path
	if len(path) > maxName {
		path = path[:maxName] + "…"
	}
	return fmt.Sprintf("%s %s: %s (rule %s)", strconv.Quote(path), v.Found, v.Remedy, v.Rule)
}

// RefusalError says why a configuration is refused.
type RefusalError struct {
	// Violations are the first ones that were found.
	Violations []Violation
	// More means that there are more.
	More bool
}

func (e *RefusalError) Error() string {
	var b strings.Builder
	b.WriteString("refused by the policy of this agent: ")
	for i, v := range e.Violations {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(v.String())
	}
	if e.More {
		b.WriteString("; and more")
	}
	return b.String()
}
