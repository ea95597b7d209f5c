// Package compare runs this project's Collector, contrib's supervisor with a
// Collector of the same components, and a plain Collector, in the same surroundings,
// and measures what starts, changes and failures of configuration cost under load.
package compare

import (
	"slices"
	"strings"
	"time"
)

// Settings say what is run and how.
type Settings struct {
	// Collector, Supervised and Supervisor are the paths of this project's Collector,
	// the one that the supervisor runs, and the supervisor.
	Collector, Supervised, Supervisor string
	// Repetitions is for reports.
	Repetitions int
	// Rate is in requests per second.
	Rate float64
	// PatientRate is that of a second client, which connects again with the delays
	// that are gRPC's defaults; 0 for no such client.
	PatientRate float64
	// Trial is the trial period and the time limit for a candidate to start.
	Trial time.Duration
	// Gates are the Collector's feature gates that are turned on, separated by
	// commas; may be empty.
	Gates string
	// Copies is a folder for a copy of the executables for each system; empty for none.
	// Systems that run at the same time then share no pages, which would be counted to
	// each of them in part.
	Copies string
	// Systems are keys; all but the floor and the default supervisor when empty.
	Systems []string
	// Rows is a part of the names of the rows; all when empty, but for those that
	// need a longer trial.
	Rows string
	// Only are the exact names of the rows, instead of Rows.
	Only []string
	// Keep is a folder that keeps everything; nothing is kept when it is empty.
	Keep string
}

// wants reports whether a row is to be measured.
func (s *Settings) wants(r Row) bool {
	if len(s.Only) > 0 {
		return slices.Contains(s.Only, r.Name)
	}
	return s.Trial > r.after && strings.Contains(strings.ToLower(r.Name), strings.ToLower(s.Rows))
}
