package policy

// match reports whether text matches a pattern in which * stands for any
// characters, also none, and ? for one byte. It takes time in proportion to the
// product of the lengths at most.
func match(pattern, text string) bool {
	p, t := 0, 0
	star, mark := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func matchAny(patterns []string, text string) bool {
	for _, pattern := range patterns {
		if match(pattern, text) {
			return true
		}
	}
	return false
}
