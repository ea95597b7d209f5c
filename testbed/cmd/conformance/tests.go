package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// marker begins the line of a comment that names requirements.
const marker = "Conformance:"

// test is a test function.
type test struct {
	name string
	file string // relative to the root, with slashes
}

// findTests returns the tests below root by the requirements that they show.
func findTests(root string) (map[string][]test, error) {
	tests := map[string][]test{}
	var errs []error
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			// What Go itself passes over: builds, test data, the history.
			if path != root && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), "_") || strings.HasPrefix(d.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(d.Name(), "_test.go") {
			return nil
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		errs = append(errs, readTests(path, filepath.ToSlash(file), tests))
		return nil
	})
	for id := range tests {
		slices.SortFunc(tests[id], func(a, b test) int {
			return cmp.Or(strings.Compare(a.file, b.file), strings.Compare(a.name, b.name))
		})
	}
	return tests, errors.Join(append(errs, err)...)
}

// readTests adds the marked tests of a file.
func readTests(path, name string, tests map[string][]test) error {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	owners := map[*ast.CommentGroup]string{}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
			owners[f.Doc] = f.Name.Name
		}
	}
	var errs []error
	for _, group := range parsed.Comments {
		for line := range strings.SplitSeq(group.Text(), "\n") {
			list, marked := strings.CutPrefix(line, marker)
			if !marked {
				continue
			}
			owner := owners[group]
			if owner == "" {
				errs = append(errs, fmt.Errorf("%s: a marker belongs into the comment of a test function", set.Position(group.Pos())))
				continue
			}
			for id := range strings.SplitSeq(list, ",") {
				id = strings.TrimSpace(id)
				if slices.Contains(tests[id], test{owner, name}) {
					errs = append(errs, fmt.Errorf("%s: %s names %q twice", name, owner, id))
					continue
				}
				tests[id] = append(tests[id], test{owner, name})
			}
		}
	}
	return errors.Join(errs...)
}
