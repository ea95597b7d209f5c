package main

import (
	"slices"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

// Beginnings and whole names of rows.
const (
	full      = "full change"
	receivers = "receivers-only change"
	idle      = "idle"
	loaded    = "under load"

	startMessage  = "start → first message at the server"
	startHealthy  = "start → healthy at the server"
	startAccepted = "start → first request accepted"
	latency       = "data path: p99 latency under load"
	throughput    = "data path: throughput"
)

// row is one line of the table.
type row struct {
	name string
	unit string
	// more means that more is better.
	more bool
}

// Units.
const (
	milliseconds = "ms"
	mebibytes    = "MiB"
	percent      = "% of a CPU"
	perSecond    = "spans/s"
	number       = ""
)

// Ends of names of rows.
const (
	isApplied   = ": offer → APPLIED"
	refused     = ": requests refused"
	gap         = ": longest gap"
	outage      = ": outage"
	patient     = ", client with gRPC's default backoff"
	lost        = ": accepted spans lost"
	connections = ": OpAMP connections"
	processes   = ": processes"
	rss         = ": RSS"
	pss         = ": PSS"
	cpu         = ": CPU"
)

// effect is the end of the name for how the effect of a change is seen.
func effect(kind string) string {
	if kind == receivers {
		return ": offer → the added receiver accepts connections"
	}
	return ": offer → first span with the new attribute in the sink"
}

// rows are the lines of the table, in order.
func rows() []row {
	all := []row{{startMessage, milliseconds, false}, {startHealthy, milliseconds, false}, {startAccepted, milliseconds, false}}
	for _, kind := range []string{full, receivers} {
		all = append(all,
			row{kind + effect(kind), milliseconds, false},
			row{kind + isApplied, milliseconds, false},
			row{kind + refused, number, false},
			row{kind + gap, milliseconds, false},
			row{kind + gap + patient, milliseconds, false},
			row{kind + lost, number, false},
			row{kind + connections, number, false},
		)
	}
	for _, what := range []string{compare.InvalidYAML, compare.UnknownComponent, compare.BindConflict, compare.BadAfterASecond, compare.SegvInTrial} {
		all = append(all,
			row{what + outage, milliseconds, false},
			row{what + outage + patient, milliseconds, false},
			row{what + refused, number, false},
			row{what + lost, number, false},
		)
	}
	for _, when := range []string{idle, loaded} {
		all = append(all,
			row{when + processes, number, false},
			row{when + rss, mebibytes, false},
			row{when + pss, mebibytes, false},
			row{when + cpu, percent, false},
		)
	}
	return append(all, row{latency, milliseconds, false}, row{throughput, perSecond, true})
}

// ours are the keys of this project's columns, rivals those that they are compared
// with.
func ours(key string) bool   { return key == compare.Ours || key == compare.Guard }
func rivals(key string) bool { return !ours(key) && key != compare.Floor }

// median is the middle one, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// p95 is the value that at least 95 of 100 are not worse than: with up to 20 values the
// worst one.
func p95(values []float64, more bool) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if more {
		slices.Reverse(sorted)
	}
	const percentile = 95
	rank := (len(sorted)*percentile + 99) / 100 // rounded up
	return sorted[rank-1]
}
