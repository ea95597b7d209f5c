package policy

// Rule is a row of the table of rules.
type Rule struct{ Section, Type, Field, Access string }

// Rules returns the table.
func Rules() []Rule {
	var all []Rule
	for _, r := range rules {
		all = append(all, Rule{r.section, r.typ, r.field, string(r.access)})
	}
	return all
}

// Match is match.
func Match(pattern, text string) bool { return match(pattern, text) }

// Covers reports whether a pattern covers a path, without a look at the disk.
func Covers(pattern, path []string) bool { return covers(pattern, path) }
