package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// repository writes a checklist and one file with tests.
func repository(t *testing.T, checklist, tests string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"docs/conformance.yaml":     checklist,
		"a/b_test.go":               "package a\n\n" + tests,
		"a/testdata/broken_test.go": "no Go at all",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return root
}

func TestPage(t *testing.T) {
	t.Parallel()
	root := repository(t, `
- title: 1.1 Connection
  intro: What holds for all.
  items:
    - {id: "1", level: MUST, text: says who it is}
    - {id: E2, text: "a | b", why: "not tested yet: hard"}
`, `// TestIt tells.
//
// Conformance: 1
func TestIt() {}

// Conformance: 1
func TestAgain() {}
`)
	require.NoError(t, run(root))
	page, err := os.ReadFile(filepath.Join(root, "docs", "conformance.md"))
	require.NoError(t, err)
	assert.Contains(t, string(page), "Of 2 requirements 1 are shown by tests; not tested yet: 1.\n")
	assert.Contains(t, string(page), `
## 1.1 Connection

What holds for all.

| # | level | requirement | shown by |
| --- | --- | --- | --- |
| 1 | MUST | says who it is | [TestAgain](../a/b_test.go)<br>[TestIt](../a/b_test.go) |
| E2 |  | a \| b | – not tested yet: hard |
`)
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	const one = `[{title: x, items: [{id: "1", text: t}]}]`
	const marked = "// Conformance: 1\nfunc TestIt() {}\n"
	for name, tt := range map[string]struct{ checklist, tests, want string }{
		"neither test nor reason": {one, "", "requirement 1: mark a test with `// Conformance: 1`, or say `why` there is none"},
		"both": {
			`[{title: x, items: [{id: "1", text: t, why: not implemented yet}]}]`, marked,
			"requirement 1: TestIt shows it, so remove its `why` (not implemented yet)",
		},
		"unknown":        {one, marked + "// Conformance: 1, 2\nfunc TestMore() {}\n", `TestMore in a/b_test.go: there is no requirement "2" in docs/conformance.yaml`},
		"empty":          {one, marked + "// Conformance:\nfunc TestMore() {}\n", `there is no requirement ""`},
		"listed twice":   {`[{title: x, items: [{id: "1", text: t}, {id: "1", text: t}]}]`, marked, "requirement 1 is listed twice"},
		"named twice":    {one, "// Conformance: 1, 1\nfunc TestIt() {}\n", `a/b_test.go: TestIt names "1" twice`},
		"no text":        {`[{title: x, items: [{id: "1"}]}]`, marked, `section "x": a requirement needs id and text`},
		"no test":        {one, marked + "// Conformance: 1\nfunc setUp() {}\n", "a marker belongs into the comment of a test function"},
		"inside":         {one, marked + "func TestMore() {\n\t// Conformance: 1\n}\n", "a marker belongs into the comment of a test function"},
		"misspelled key": {`[{title: x, items: [{id: "1", txt: t}]}]`, marked, "field txt not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.ErrorContains(t, run(repository(t, tt.checklist, tt.tests)), tt.want)
		})
	}
}
