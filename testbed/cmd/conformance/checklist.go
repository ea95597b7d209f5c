package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// section is a group of requirements.
type section struct {
	Title string `yaml:"title"`
	Intro string `yaml:"intro"`
	Items []item `yaml:"items"`
}

// item is one requirement.
type item struct {
	ID string `yaml:"id"`
	// Level is the word of the specification, such as MUST; may be empty.
	Level string `yaml:"level"`
	Text  string `yaml:"text"`
	// Why is the reason why no test shows it.
	Why string `yaml:"why"`
	// Note is what the tests do not say.
	Note string `yaml:"note"`
}

func parseChecklist(text []byte) ([]section, error) {
	var sections []section
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&sections); err != nil {
		return nil, err
	}
	return sections, nil
}

// check returns what is wrong with the checklist and the markers.
func check(sections []section, tests map[string][]test) []error {
	var errs []error
	known := map[string]bool{}
	for _, s := range sections {
		for _, i := range s.Items {
			switch {
			case i.ID == "" || i.Text == "":
				errs = append(errs, fmt.Errorf("section %q: a requirement needs id and text", s.Title))
			case known[i.ID]:
				errs = append(errs, fmt.Errorf("requirement %s is listed twice", i.ID))
			case i.Why == "" && len(tests[i.ID]) == 0:
				errs = append(errs, fmt.Errorf("requirement %s: mark a test with `// Conformance: %s`, or say `why` there is none", i.ID, i.ID))
			case i.Why != "" && len(tests[i.ID]) > 0:
				errs = append(errs, fmt.Errorf("requirement %s: %s shows it, so remove its `why` (%s)", i.ID, tests[i.ID][0].name, i.Why))
			}
			known[i.ID] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(tests)) {
		if !known[id] {
			errs = append(errs, fmt.Errorf("%s in %s: there is no requirement %q in docs/conformance.yaml", tests[id][0].name, tests[id][0].file, id))
		}
	}
	return errs
}

// write writes the page.
func write(out io.Writer, sections []section, tests map[string][]test) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) } // to a buffer: cannot fail
	all, shown := 0, 0
	reasons := map[string]int{}
	for _, s := range sections {
		for _, i := range s.Items {
			all++
			if i.Why == "" {
				shown++
				continue
			}
			reason, _, _ := strings.Cut(i.Why, ":")
			reasons[reason]++
		}
	}
	p("<!-- Written by testbed/cmd/conformance from conformance.yaml and the markers in the tests. Do not edit. -->\n\n")
	p("# Conformance\n\n")
	p("What the OpAMP specification demands of an agent, and mistakes that are known from other agents, each with the tests that show what this\n" +
		"agent does. A test says by a line `// Conformance: <number>` what it shows; this page is made from these lines. To change it, change the\n" +
		"tests or [conformance.yaml](conformance.yaml), and run `make generate`.\n\n")
	p("Of %d requirements %d are shown by tests", all, shown)
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		p("; %s: %d", reason, reasons[reason])
	}
	p(".\n")
	for _, s := range sections {
		p("\n## %s\n\n", s.Title)
		if s.Intro != "" {
			p("%s\n\n", strings.TrimSpace(s.Intro))
		}
		p("| # | level | requirement | shown by |\n| --- | --- | --- | --- |\n")
		for _, i := range s.Items {
			var by []string
			for _, t := range tests[i.ID] {
				by = append(by, fmt.Sprintf("[%s](../%s)", t.name, t.file))
			}
			if i.Why != "" {
				by = append(by, "– "+i.Why)
			}
			if i.Note != "" {
				by = append(by, "("+i.Note+")")
			}
			p("| %s | %s | %s | %s |\n", i.ID, i.Level, cell(i.Text), cell(strings.Join(by, "<br>")))
		}
	}
}

// cell makes a text fit into a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}
