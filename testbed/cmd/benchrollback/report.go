package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

// report is what is printed at the end.
type report struct {
	settings compare.Settings
	systems  []compare.System
	leftOut  []string
	rows     []compare.Row
	outcomes []compare.Outcome
	begun    time.Time
	// before and after are loadAverage at the beginning and at the end.
	before, after string
}

// String renders it in Markdown.
func (r *report) String() string {
	s, w := r.settings, &strings.Builder{}
	machine := []string{compare.Machine(), r.begun.Format(time.DateOnly)}
	if r.before != "" {
		machine = append(machine, fmt.Sprintf("load average %s at the beginning and %s at the end", r.before, r.after))
	}
	fmt.Fprintf(w, "%d repetitions under %.0f requests/s, trial %s; %s beside %s with %s; %s.\n\n",
		s.Repetitions, s.Rate, s.Trial, filepath.Base(s.Collector), filepath.Base(s.Supervisor), filepath.Base(s.Supervised), strings.Join(machine, ", "))
	fmt.Fprintln(w, "| what fails | system | outage, median | outage, max | FAILED after, median | FAILED after, max | refused, median | accepted spans lost, median | max | last known good serves again | Collector's PID |")
	fmt.Fprintln(w, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
	var problems []string
	for _, row := range r.rows {
		for _, sys := range r.systems {
			line, problem := r.line(row, sys)
			fmt.Fprintln(w, line)
			problems = append(problems, problem...)
		}
	}
	fmt.Fprintf(w, "\nA process that ends is started again after %s, the default of systemd. ", compare.RestartDelay)
	fmt.Fprintln(w, "FAILED counts from the offer, or from the signal or command that makes the candidate fail.")
	for _, text := range r.leftOut {
		fmt.Fprintf(w, "\nLeft out: %s\n", text)
	}
	for _, text := range problems {
		fmt.Fprintf(w, "\nNot as planned: %s\n", text)
	}
	return w.String()
}

// line is the line of a table for one row and system, and what was not as planned.
func (r *report) line(row compare.Row, sys compare.System) (line string, problems []string) {
	var outages, reported []time.Duration
	var refused, lost []int
	same, total := 0, 0
	for _, o := range r.outcomes {
		if o.Row != row.Name || o.System != sys.Key {
			continue
		}
		total++
		if o.Text != "" {
			text, _, _ := strings.Cut(o.Text, "\n")
			problems = append(problems, fmt.Sprintf("%s, %s: %s", row.Name, sys.Name, text))
			continue
		}
		outages = append(outages, o.Outage)
		refused, lost = append(refused, o.Refused), append(lost, o.Lost)
		if o.Failed >= 0 {
			reported = append(reported, o.Failed)
		}
		if o.SamePID {
			same++
		}
	}
	pid := fmt.Sprintf("kept in %d", same)
	switch same {
	case 0:
		pid = "another"
	case len(outages):
		pid = "kept"
	}
	if len(outages) == 0 {
		pid = "–"
	}
	medianOutage, maxOutage := ends(outages)
	medianFailed, maxFailed := ends(reported)
	medianRefused, _ := ends(refused)
	medianLost, maxLost := ends(lost)
	cells := []string{
		row.Name, sys.Name,
		ms(medianOutage, len(outages)), ms(maxOutage, len(outages)),
		ms(medianFailed, len(reported)), ms(maxFailed, len(reported)),
		count(medianRefused, len(refused)), count(medianLost, len(lost)), count(maxLost, len(lost)),
		fmt.Sprintf("%d of %d", len(outages), total), pid,
	}
	return "| " + strings.Join(cells, " | ") + " |", problems
}

// ends returns the median and the highest value; zeros when there are none.
func ends[T ~int | ~int64](values []T) (median, highest T) {
	if len(values) == 0 {
		return median, highest
	}
	slices.Sort(values)
	// The two in the middle are the same one when their number is odd.
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2, values[len(values)-1]
}

// ms renders a duration; a dash when it was never measured.
func ms(d time.Duration, measured int) string {
	if measured == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

func count(n, measured int) string {
	if measured == 0 {
		return "–"
	}
	return strconv.Itoa(n)
}
