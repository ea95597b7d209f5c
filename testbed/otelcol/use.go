package otelcol

import "time"

// Use is what processes take of the machine.
type Use struct {
	Processes int
	// RSS is the resident memory in bytes, in which pages that processes share are
	// counted for each; PSS counts each page once.
	RSS, PSS int64
	// CPU is the time of processors that was used since the start, without that of
	// processes that have ended.
	CPU time.Duration
}
