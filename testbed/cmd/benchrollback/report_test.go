package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

func TestReport(t *testing.T) {
	t.Parallel()
	r := report{
		settings: compare.Settings{Collector: "bin/ours", Supervised: "bin/theirs", Supervisor: "bin/supervisor", Repetitions: 3, Rate: 500, Trial: time.Second},
		systems:  []compare.System{{Key: "a", Name: "A"}, {Key: "b", Name: "B"}},
		leftOut:  []string{"C: it is not there."},
		rows:     []compare.Row{{Name: "row"}},
		outcomes: []compare.Outcome{
			{System: "a", Row: "row", Outage: 30 * time.Millisecond, Failed: 5 * time.Millisecond, Refused: 15, SamePID: true},
			{System: "b", Row: "row", Text: "gone\nand more"},
			{System: "a", Row: "row", Outage: 10 * time.Millisecond, Failed: 6 * time.Millisecond, Refused: 5, Lost: 2, SamePID: true},
			{System: "a", Row: "row", Outage: 20 * time.Millisecond, Failed: -1, Refused: 10},
			{System: "a", Row: "another"},
		},
	}
	text := r.String()
	assert.Contains(t, text, "3 repetitions under 500 requests/s, trial 1s; ours beside supervisor with theirs; ")
	assert.Contains(t, text, "| row | A | 20 ms | 30 ms | 6 ms | 6 ms | 10 | 0 | 2 | 3 of 3 | kept in 2 |\n")
	assert.Contains(t, text, "| row | B | – | – | – | – | – | – | – | 0 of 1 | – |\n")
	assert.Contains(t, text, "\nLeft out: C: it is not there.\n")
	assert.Contains(t, text, "\nNot as planned: row, B: gone\n")
	assert.NotContains(t, text, "and more")
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values          []int
		median, highest int
	}{{nil, 0, 0}, {[]int{7}, 7, 7}, {[]int{9, 5}, 7, 9}, {[]int{9, 1, 5}, 5, 9}} {
		median, highest := ends(c.values)
		assert.Equal(t, c.median, median, "%v", c.values)
		assert.Equal(t, c.highest, highest, "%v", c.values)
	}
}
