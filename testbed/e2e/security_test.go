//go:build unix

package e2e_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// repository is the top folder.
const repository = "../.."

// securityTest is a link to a test: its name, and the file that has it.
var securityTest = regexp.MustCompile(`\[((?:Test|Fuzz)\w+)\]\(([^)]*)\)`)

// Each test that SECURITY.md names is where the page says, and each threat has one.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(repository, "SECURITY.md"))
	require.NoError(t, err)
	threats := 0
	for line := range strings.Lines(string(page)) {
		number, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " ")
		tests := securityTest.FindAllStringSubmatch(line, -1)
		if regexp.MustCompile(`^\d+$`).MatchString(number) {
			threats++
			assert.NotEmptyf(t, tests, "threat %s has no test", number)
		}
		for _, test := range tests {
			assert.Truef(t, declares(t, filepath.Join(repository, test[2]), test[1]), "threat %s: %s has no %s", number, test[2], test[1])
		}
	}
	assert.Positive(t, threats, "threats in the table")
}

// declares reports whether a Go file has a function of that name. Some files are
// for other systems, and some of other modules: they are only parsed.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if !assert.NoError(t, err) {
		return false
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
			return true
		}
	}
	return false
}
