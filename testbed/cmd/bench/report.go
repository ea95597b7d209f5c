package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

// report collects the figures.
type report struct {
	settings settings
	systems  []compare.System
	leftOut  []string
	begun    time.Time
	ended    time.Time
	// before and after are the load average at the beginning and at the end.
	before, after string
	// values are by the name of the row and the key of the system, in the order of the
	// repetitions.
	values map[string]map[string][]float64
	// problems are what was not as planned.
	problems []problem
	// progress is told of each figure and problem; may be nil.
	progress io.Writer
}

type problem struct {
	What   string `json:"what"`
	System string `json:"system"`
	Text   string `json:"text"`
}

func (r *report) add(row string, sys compare.System, value float64) {
	if r.values == nil {
		r.values = map[string]map[string][]float64{}
	}
	if r.values[row] == nil {
		r.values[row] = map[string][]float64{}
	}
	r.values[row][sys.Key] = append(r.values[row][sys.Key], value)
	r.tell("%s: %s: %.1f", sys.Key, row, value)
}

func (r *report) tell(format string, args ...any) {
	if r.progress != nil {
		_, _ = fmt.Fprintf(r.progress, format+"\n", args...) // a convenience
	}
}

// duration adds one in milliseconds, unless it is negative: there was nothing to
// measure.
func (r *report) duration(row string, sys compare.System, d time.Duration) {
	if d >= 0 {
		r.add(row, sys, float64(d)/float64(time.Millisecond))
	}
}

func (r *report) use(when string, sys compare.System, u compare.Use) {
	const mebi = 1 << 20
	r.add(when+processes, sys, float64(u.Processes))
	r.add(when+rss, sys, float64(u.RSS)/mebi)
	r.add(when+pss, sys, float64(u.PSS)/mebi)
	r.add(when+cpu, sys, 100*u.CPU)
}

func (r *report) change(kind string, sys compare.System, c compare.Change) {
	r.duration(kind+effect(kind), sys, c.InSink)
	r.duration(kind+isApplied, sys, c.Applied)
	r.add(kind+refused, sys, float64(c.Refused))
	r.duration(kind+gap, sys, c.Gap)
	r.duration(kind+gap+patient, sys, c.PatientGap)
	r.add(kind+lost, sys, float64(c.Lost))
	if c.Applied >= 0 { // with a server
		r.add(kind+connections, sys, float64(c.Connections))
	}
}

func (r *report) outcomes(systems []compare.System, outcomes []compare.Outcome) {
	for _, o := range outcomes {
		for _, sys := range systems {
			if sys.Key != o.System {
				continue
			}
			if o.Text != "" {
				r.problem(o.Row, sys, fmt.Errorf("%s", o.Text))
				continue
			}
			r.duration(o.Row+outage, sys, o.Outage)
			r.duration(o.Row+outage+patient, sys, o.PatientOutage)
			r.add(o.Row+refused, sys, float64(o.Refused))
			r.add(o.Row+lost, sys, float64(o.Lost))
		}
	}
}

func (r *report) problem(what string, sys compare.System, err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	r.problems = append(r.problems, problem{what, sys.Key, text})
	r.tell("%s: %s: %s", sys.Key, what, text)
}

// render writes a value with as many digits as say something.
func render(value float64) string {
	if value != math.Trunc(value) && math.Abs(value) < 10 {
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.0f", value)
}

// Marks of this project's cells that are not the best.
const (
	worse  = "✗"
	nearly = "≈"
)

// near is how much worse a median may be to be called nearly as good: less than the
// medians of two runs differ.
const near = 0.05

// mark compares one of this project's cells with those of the other managed systems:
// empty if none has a better median as far as the table shows, worse also if this one
// has none.
func (r *report) mark(w row, key string) string {
	if !ours(key) {
		return ""
	}
	mine, mark := r.values[w.name][key], ""
	for _, sys := range r.systems {
		theirs := r.values[w.name][sys.Key]
		if !rivals(sys.Key) || len(theirs) == 0 {
			continue
		}
		if len(mine) == 0 {
			return worse
		}
		a, b := median(mine), median(theirs)
		switch {
		case render(a) == render(b) || (a > b) == w.more:
		case math.Abs(a-b) > near*b:
			return worse
		default:
			mark = nearly
		}
	}
	return mark
}

// String renders it in Markdown.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s; %s, %s.\n\n", r.begun.Format(time.DateOnly), compare.Machine(), r.how(), r.load())
	b.WriteString("| row | better |")
	for _, sys := range r.systems {
		b.WriteString(" " + sys.Name + " |")
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" ---: |", len(r.systems)) + "\n")
	for _, w := range rows() {
		name, better := w.name, "less"
		if w.unit != "" {
			name += ", " + w.unit
		}
		if w.more {
			better = "more"
		}
		fmt.Fprintf(&b, "| %s | %s |", name, better)
		for _, sys := range r.systems {
			b.WriteString(" " + r.cell(w, sys.Key) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\nMedian (p95). ✗: a column of the supervisor has a better median than this cell of this project's; ≈: by 5 % at most.\n")
	for _, text := range r.leftOut {
		fmt.Fprintf(&b, "\nLeft out: %s\n", text)
	}
	for _, p := range r.problems {
		fmt.Fprintf(&b, "\nNot as planned: %s, %s: %s\n", p.System, p.What, p.Text)
	}
	return b.String()
}

func (r *report) cell(w row, key string) string {
	values := r.values[w.name][key]
	text := "–"
	if len(values) > 0 {
		text = fmt.Sprintf("%s (%s)", render(median(values)), render(p95(values, w.more)))
		if len(values) < r.settings.repetitions {
			text += fmt.Sprintf(", %d of %d", len(values), r.settings.repetitions)
		}
	}
	if mark := r.mark(w, key); mark != "" {
		text += " " + mark
	}
	return text
}

func (r *report) how() string {
	s := r.settings
	return fmt.Sprintf("%d repetitions under %.0f requests/s and %.0f of the client with gRPC's default backoff, trial %s; %s beside %s with %s (small: %s, %s)",
		s.repetitions, s.full.Rate, s.full.PatientRate, s.full.Trial, filepath.Base(s.full.Collector), filepath.Base(s.full.Supervisor),
		filepath.Base(s.full.Supervised), filepath.Base(s.small.Collector), filepath.Base(s.small.Supervised))
}

func (r *report) load() string {
	text := fmt.Sprintf("took %s", r.ended.Sub(r.begun).Round(time.Second))
	if r.before != "" {
		text += fmt.Sprintf(", load average %s at the beginning and %s at the end", r.before, r.after)
	}
	return text
}

// figures are the report in JSON.
type figures struct {
	Begun    time.Time   `json:"begun"`
	Machine  string      `json:"machine"`
	Settings string      `json:"settings"`
	Load     string      `json:"load"`
	Rows     []figureRow `json:"rows"`
	LeftOut  []string    `json:"left_out,omitempty"`
	Problems []problem   `json:"problems,omitempty"`
}

type figureRow struct {
	Row     string            `json:"row"`
	Unit    string            `json:"unit,omitempty"`
	Better  string            `json:"better"`
	Systems map[string]figure `json:"systems"`
}

type figure struct {
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
	// Values are in the order of the repetitions.
	Values []float64 `json:"values"`
	// Mark: see report.mark.
	Mark string `json:"mark,omitempty"`
}

// write writes the figures as JSON.
func (r *report) write(path string) error {
	f := figures{Begun: r.begun.UTC(), Machine: compare.Machine(), Settings: r.how(), Load: r.load(), LeftOut: r.leftOut, Problems: r.problems}
	for _, w := range rows() {
		line := figureRow{Row: w.name, Unit: w.unit, Better: "less", Systems: map[string]figure{}}
		if w.more {
			line.Better = "more"
		}
		for _, sys := range r.systems {
			if values := r.values[w.name][sys.Key]; len(values) > 0 {
				line.Systems[sys.Key] = figure{Median: median(values), P95: p95(values, w.more), Values: values, Mark: r.mark(w, sys.Key)}
			}
		}
		f.Rows = append(f.Rows, line)
	}
	content, err := json.MarshalIndent(f, "", " ")
	if err == nil {
		err = os.WriteFile(path, append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}
