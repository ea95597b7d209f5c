package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

func system(key string) compare.System { return compare.System{Key: key, Name: key} }

// example is a report on which some rows have figures.
func example() *report {
	r := &report{
		settings: settings{repetitions: 2},
		systems:  []compare.System{system(compare.Ours), system(compare.Guard), system(compare.Supervisor), system(compare.SupervisorHUP), system(compare.Floor)},
		leftOut:  []string{"something: it is not there."},
	}
	for row, values := range map[string][5][]float64{
		startHealthy:            {{5, 7}, {3.4, 3.4}, {4, 4}, nil, nil},
		startMessage:            {nil, {1, 1}, {3, 3}, {1, 1}, nil},
		startAccepted:           {{100.2, 100.2}, {100}, {100.4, 100.4}, {101, 102}, {1, 1}},
		throughput:              {{100, 200}, {90, 100}, {100, 110}, {110, 80}, {900, 900}},
		latency:                 {{102, 102}, {106, 106}, {110, 110}, {100, 100}, {1, 1}},
		full + refused:          {{0, 0}, {3, 3}, {2, 2}, {2, 2}, {1, 1}},
		receivers + connections: {{0, 0}, {0, 0}, {0, 0}, {0, 0}, nil},
	} {
		for i, of := range values {
			for _, value := range of {
				r.add(row, r.systems[i], value)
			}
		}
	}
	r.problem("start", r.systems[1], errors.New("it is gone\nand more"))
	return r
}

func TestTable(t *testing.T) {
	t.Parallel()
	text := example().String()
	// Worse than the supervisor's better column, the middle of two and the worst one.
	assert.Contains(t, text, "| "+startHealthy+", ms | less | 6 (7) ✗ | 3.4 (3.4) | 4 (4) | – | – |\n")
	// Nothing measured is not the best; as good as another is.
	assert.Contains(t, text, "| "+startMessage+", ms | less | – ✗ | 1 (1) | 3 (3) | 1 (1) | – |\n")
	// A difference that the table does not show is none; the plain Collector does not
	// compete.
	assert.Contains(t, text, "| "+startAccepted+", ms | less | 100 (100) | 100 (100), 1 of 2 | 100 (100) | 102 (102) | 1 (1) |\n")
	assert.Contains(t, text, "| "+latency+", ms | less | 102 (102) ≈ | 106 (106) ✗ | 110 (110) | 100 (100) | 1 (1) |\n")
	// More is better, the worst is the lowest.
	assert.Contains(t, text, "| "+throughput+", spans/s | more | 150 (100) | 95 (90) ✗ | 105 (100) | 95 (80) | 900 (900) |\n")
	assert.Contains(t, text, "| full change: requests refused | less | 0 (0) | 3 (3) ✗ | 2 (2) | 2 (2) | 1 (1) |\n")
	assert.Contains(t, text, "\nLeft out: something: it is not there.\n")
	assert.Contains(t, text, "\nNot as planned: guard, start: it is gone\n")
	assert.NotContains(t, text, "and more")
}

func TestFigures(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bench.json")
	require.NoError(t, example().write(path))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var f figures
	require.NoError(t, json.Unmarshal(content, &f))
	require.Len(t, f.Rows, len(rows()))
	assert.Equal(t, startHealthy, f.Rows[1].Row)
	assert.Equal(t, figure{Median: 6, P95: 7, Values: []float64{5, 7}, Mark: worse}, f.Rows[1].Systems[compare.Ours])
	assert.NotContains(t, f.Rows[1].Systems, compare.Floor)
	assert.Equal(t, "less", f.Rows[1].Better)
	assert.Equal(t, "more", f.Rows[len(f.Rows)-1].Better)
	assert.Equal(t, []problem{{"start", compare.Guard, "it is gone"}}, f.Problems)
	require.Error(t, example().write(filepath.Join(path, "not a folder")))
}

// Everything that is measured has a line in the table, and every line is measured.
func TestRowsAreWhatIsMeasured(t *testing.T) {
	t.Parallel()
	r, sys := &report{}, system(compare.Ours)
	for _, name := range []string{startMessage, startHealthy, startAccepted, latency} {
		r.duration(name, sys, time.Second)
	}
	r.add(throughput, sys, 1)
	for _, when := range []string{idle, loaded} {
		r.use(when, sys, compare.Use{})
	}
	for _, kind := range []string{full, receivers} {
		r.change(kind, sys, compare.Change{})
	}
	for _, what := range []string{compare.InvalidYAML, compare.UnknownComponent, compare.BindConflict, compare.BadAfterASecond, compare.SegvInTrial} {
		r.outcomes([]compare.System{sys}, []compare.Outcome{{Row: what, System: compare.Ours}, {Row: what, System: "another"}})
	}
	lines := map[string]bool{}
	for _, w := range rows() {
		assert.False(t, lines[w.name], "rows are told apart by their names: %s", w.name)
		lines[w.name] = true
		assert.Len(t, r.values[w.name][compare.Ours], 1, w.name)
	}
	assert.Len(t, r.values, len(lines))
}

func TestWhatIsMissing(t *testing.T) {
	t.Parallel()
	r, sys := &report{}, system(compare.Floor)
	r.duration(startMessage, sys, -1)
	r.change(full, sys, compare.Change{Applied: -1, Connections: 3})
	r.outcomes([]compare.System{sys}, []compare.Outcome{{Row: compare.SegvInTrial, System: compare.Floor, Text: "gone"}})
	assert.NotContains(t, r.values, startMessage)
	assert.NotContains(t, r.values, full+isApplied)
	assert.NotContains(t, r.values, full+connections)
	assert.NotContains(t, r.values, compare.SegvInTrial+outage)
	assert.Len(t, r.problems, 1)
}

func TestP95(t *testing.T) {
	t.Parallel()
	var values []float64
	for i := range 40 {
		values = append(values, float64(i+1))
	}
	assert.InDelta(t, 38, p95(values, false), 0)
	assert.InDelta(t, 3, p95(values, true), 0)
	assert.InDelta(t, 10, p95(values[:10], false), 0)
	assert.InDelta(t, 7, p95([]float64{7}, true), 0)
}
