package load

import (
	"cmp"
	"slices"
	"time"
)

// Success is an accepted request.
type Success struct {
	Seq uint64
	// Time is when the answer came.
	Time time.Time
	// Latency is how long the answer took.
	Latency time.Duration
}

// Refusal is a request that was not accepted.
type Refusal struct {
	Seq  uint64
	Time time.Time
	Err  error
}

// Result is the account of a stopped generator. It belongs to the caller, but all
// calls of Stop return the same slices.
type Result struct {
	Run              string
	Started, Stopped time.Time
	// Sent is the number of requests; Accepted and Refused add up to it.
	Sent uint64
	// Accepted are the numbers of the accepted requests, ascending.
	Accepted []uint64
	// Successes are the accepted requests in the order of their answers.
	Successes []Success
	// Refused are the others, in the order in which they failed.
	Refused []Refusal
	// LongestGap is the longest time between two successive answers that accept,
	// and GapFrom the time of the first of the two. An outage that lasts until
	// Stop, or from Start, is not a gap: compare with Started and Stopped.
	LongestGap time.Duration
	GapFrom    time.Time
}

func newResult(run string, started time.Time, sent uint64, successes []Success, refused []Refusal) Result {
	r := Result{Run: run, Started: started, Stopped: time.Now(), Sent: sent, Successes: successes, Refused: refused}
	slices.SortFunc(r.Successes, func(a, b Success) int { return a.Time.Compare(b.Time) })
	for _, s := range r.Successes {
		r.Accepted = append(r.Accepted, s.Seq)
	}
	slices.Sort(r.Accepted)
	r.LongestGap, r.GapFrom = longestGap(r.Successes)
	return r
}

// LongestGapBetween is LongestGap for the answers from one moment to another.
func (r Result) LongestGapBetween(from, to time.Time) (gap time.Duration, gapFrom time.Time) {
	return longestGap(between(r.Successes, from, to, func(s Success) time.Time { return s.Time }))
}

// After is the part of the account with the answers and refusals after a moment; only
// Successes and Refused are set.
func (r Result) After(from time.Time) Result {
	return Result{
		Run:       r.Run,
		Successes: between(r.Successes, from, r.Stopped, func(s Success) time.Time { return s.Time }),
		Refused:   between(r.Refused, from, r.Stopped, func(f Refusal) time.Time { return f.Time }),
	}
}

// RefusedBetween returns the refusals from one moment to another.
func (r Result) RefusedBetween(from, to time.Time) []Refusal {
	return between(r.Refused, from, to, func(f Refusal) time.Time { return f.Time })
}

// Latency returns the latency that the given share, from 0 to 1, of the accepted
// requests did not exceed; 0 when there were none.
func (r Result) Latency(share float64) time.Duration {
	if len(r.Successes) == 0 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(r.Successes), func(a, b Success) int { return cmp.Compare(a.Latency, b.Latency) })
	i := int(share * float64(len(sorted)))
	return sorted[min(max(i, 0), len(sorted)-1)].Latency
}

func between[T any](all []T, from, to time.Time, at func(T) time.Time) []T {
	var within []T
	for _, e := range all {
		if t := at(e); !t.Before(from) && !t.After(to) {
			within = append(within, e)
		}
	}
	return within
}

func longestGap(successes []Success) (gap time.Duration, from time.Time) {
	for i := 1; i < len(successes); i++ {
		if d := successes[i].Time.Sub(successes[i-1].Time); d > gap {
			gap, from = d, successes[i-1].Time
		}
	}
	return gap, from
}
