package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestReport(t *testing.T) {
	t.Parallel()
	r := report{
		settings: settings{collector: "bin/ours", supervised: "bin/theirs", supervisor: "bin/supervisor", repetitions: 3, rate: 500, trial: time.Second},
		systems:  []system{{key: "a", name: "A"}, {key: "b", name: "B"}},
		leftOut:  []string{"C: it is not there."},
		rows:     []row{{name: "row"}},
		outcomes: []outcome{
			{system: "a", row: "row", outage: 30 * time.Millisecond, failed: 5 * time.Millisecond, refused: 15, samePID: true},
			{system: "b", row: "row", text: "gone\nand more"},
			{system: "a", row: "row", outage: 10 * time.Millisecond, failed: 6 * time.Millisecond, refused: 5, lost: 2, samePID: true},
			{system: "a", row: "row", outage: 20 * time.Millisecond, failed: -1, refused: 10},
			{system: "a", row: "another"},
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
