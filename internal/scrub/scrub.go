// Package scrub removes secrets from texts that leave the process, bounds them
// and makes them valid UTF-8.
package scrub

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxText is the length in bytes to which [Scrubber.Text] cuts: enough for a
// list of validation errors, small against a message.
const MaxText = 2048

// minSecret is the length in bytes below which a value is not replaced: it
// would hit ordinary words and hardly is a secret.
const minSecret = 4

// secretName matches the names of variables that usually hold secrets (the
// deny list of design section 6).
var secretName = regexp.MustCompile(`(?i)TOKEN|SECRET|PASSW|KEY|HEADERS|CREDENTIAL|AUTH`)

// reference matches the name in ${NAME}, ${env:NAME} and ${env:NAME:-default}.
var reference = regexp.MustCompile(`\$\{(?:env:)?([a-zA-Z_][a-zA-Z0-9_]*)`)

// userinfo matches the user and password of a URL.
var userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s"']+@`)

// Scrubber replaces values of environment variables by references to them. It
// is immutable and safe for concurrent use.
type Scrubber struct {
	secrets  []secret
	replacer *strings.Replacer
}

// secret is a text that must not be shown, and what is shown instead.
type secret struct{ reference, value string }

// New returns a Scrubber for environ, in the form of os.Environ. It replaces
// the values of variables whose names look secret, and of those that one of the
// texts refers to.
func New(environ []string, texts ...[]byte) *Scrubber {
	referred := map[string]bool{}
	for _, text := range texts {
		for _, m := range reference.FindAllSubmatch(text, -1) {
			referred[string(m[1])] = true
		}
	}
	var secrets []secret
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !referred[name] && !secretName.MatchString(name) {
			continue
		}
		secrets = appendForms(secrets, "${env:"+name+"}", value)
	}
	return newScrubber(secrets)
}

// Hiding returns a Scrubber that also replaces other values, which are given by what
// is to be shown instead.
func (s *Scrubber) Hiding(values map[string]string) *Scrubber {
	secrets := slices.Clone(s.secrets)
	for _, reference := range slices.Sorted(maps.Keys(values)) {
		secrets = appendForms(secrets, reference, values[reference])
	}
	return newScrubber(secrets)
}

func appendForms(secrets []secret, reference, value string) []secret {
	for _, form := range forms(value) {
		if len(form) >= minSecret {
			secrets = append(secrets, secret{reference, form})
		}
	}
	return secrets
}

func newScrubber(secrets []secret) *Scrubber {
	// Longer values first: one may contain another.
	slices.SortStableFunc(secrets, func(a, b secret) int { return len(b.value) - len(a.value) })
	var pairs []string
	for _, s := range secrets {
		pairs = append(pairs, s.value, s.reference)
	}
	return &Scrubber{secrets: secrets, replacer: strings.NewReplacer(pairs...)}
}

// forms returns the value and what it looks like in errors: quoted, quoted
// again, and line by line.
func forms(value string) []string {
	quote := func(s string) string {
		quoted := strconv.Quote(s)
		return quoted[1 : len(quoted)-1]
	}
	out := []string{value}
	if once := quote(value); once != value {
		out = append(out, once, quote(once))
	}
	if strings.Contains(value, "\n") {
		for line := range strings.SplitSeq(value, "\n") {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, forms(line)...)
			}
		}
	}
	return out
}

// Text returns s without the secrets and without the userinfo of URLs, as
// valid UTF-8 of at most [MaxText] bytes. What is cut is marked.
func (s *Scrubber) Text(text string) string {
	text = strings.ToValidUTF8(text, "�")
	text = s.replacer.Replace(text)
	text = userinfo.ReplaceAllString(text, "${1}[REDACTED]@")
	return Cut(text, MaxText)
}

// Cut shortens text to at most limit bytes, at a character's border, and marks
// that it did.
func Cut(text string, limit int) string {
	const mark = " […]"
	if len(text) <= limit {
		return text
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}
