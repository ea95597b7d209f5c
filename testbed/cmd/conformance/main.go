// Command conformance writes docs/conformance.md: the requirements in
// docs/conformance.yaml, each with the tests that show it.
//
// A test says what it shows by a line in its comment:
//
//	// Conformance: 25, E4
//
// The page cannot drift from the tests: it is an error if a marker names an
// unknown requirement, stands anywhere else, or if a requirement has neither a
// test nor a reason why not, or both.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", "..", "the root of the repository")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(root string) (err error) {
	docs, err := os.OpenRoot(filepath.Join(root, "docs"))
	if err != nil {
		return fmt.Errorf("opening the documentation: %w", err)
	}
	defer func() { err = errors.Join(err, docs.Close()) }()
	text, err := docs.ReadFile("conformance.yaml")
	if err != nil {
		return fmt.Errorf("reading the requirements: %w", err)
	}
	sections, err := parseChecklist(text)
	if err != nil {
		return fmt.Errorf("reading the requirements: %w", err)
	}
	tests, err := findTests(root)
	if err != nil {
		return fmt.Errorf("reading the tests: %w", err)
	}
	if err := errors.Join(check(sections, tests)...); err != nil {
		return err
	}
	var page bytes.Buffer
	write(&page, sections, tests)
	if err := docs.WriteFile("conformance.md", page.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}
