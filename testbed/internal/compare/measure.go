package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

const (
	applied = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED
	failed  = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED
)

const (
	// patience bounds waits for what is not measured, on a busy machine.
	patience = time.Minute
	// giveUp is when a failure counts as not recovered from: more than the sum of
	// all delays of any system. The supervisor has 3 s until it is known that the
	// Collector does not come up, 10 s until a stuck one is killed, and 5 s until it
	// is started again.
	giveUp = 30 * time.Second
	// arrival is how long after the last answer accepted spans may still arrive:
	// many times the timeout of the batch processor.
	arrival = 2 * time.Second
	// startTime is how long a system may take to start; the supervisor, which starts
	// two Collectors one after the other, takes a second or two.
	startTime = 20 * time.Second
	// maxTries is how often a row is begun on a system that does not serve even
	// before it is made to fail, and how often a start is tried: about one in ten of
	// the supervisor's fails on a busy machine, because it may lose the list of the
	// Collector's feature gates to the end of the process that prints it.
	maxTries = 3
	// enough is a number of requests after which the load counts as steady.
	enough = 50
	// poll is for what nothing announces. It does not enter the figures.
	poll = 5 * time.Millisecond
	// before is how much of the time before the failure is looked at: the last
	// success before an outage is needed to see its whole length.
	before = 50 * time.Millisecond
)

// Outcome is what one failure has cost.
type Outcome struct {
	// System is the key of a [System], Row the name of a [Row].
	System, Row string
	// Text says what went wrong beyond the plan; the figures are void then.
	Text string
	// early means that it went wrong before the failure that is to be measured.
	early bool
	// Outage is the time without service: the longest time between two successive
	// answers that accept, or the time from the first refused request to the first
	// acceptance after the last one refused, whichever is longer.
	Outage time.Duration
	// PatientOutage is the same for the patient client; 0 without one.
	PatientOutage time.Duration
	// Failed is the time from the offer, or from the harm that was done, until the
	// server was told; negative when there was nothing to tell.
	Failed  time.Duration
	Refused int
	// Lost is the number of spans that were accepted and never arrived.
	Lost int
	// SamePID means that the process that listened before listens again.
	SamePID bool
}

// String is for the progress line.
func (o Outcome) String() string {
	if o.Text != "" {
		return o.Row + ": " + o.Text
	}
	text := fmt.Sprintf("%s: outage %s, %d refused, %d accepted spans lost", o.Row, o.Outage.Round(time.Millisecond), o.Refused, o.Lost)
	if o.Failed >= 0 {
		text += fmt.Sprintf(", FAILED after %s", o.Failed.Round(time.Millisecond))
	}
	return text
}

// World is a system that runs, and what surrounds it. Its methods must not be called
// concurrently.
type World struct {
	system   System
	settings Settings
	dir      string
	server   *opampserver.Server
	sink     *sink.Sink
	otlp     string // address of the receiver
	spare    string // address that nobody uses
	service  *service
	log      *os.File // output of all processes, nil when it is not kept
	uid      string
	// good is the mark of the last known good.
	good string
	// turn numbers the failures.
	turn int
}

// write makes a file in the world's folder and returns its path.
func (w *World) write(name, format string, args ...any) (string, error) {
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		return "", fmt.Errorf("writing a configuration: %w", err)
	}
	return path, nil
}

// mark is different for each failure.
func (w *World) mark(kind string) string { return fmt.Sprintf("%s-%d", kind, w.turn) }

// control is the path of the file that commands the component of controlled.
func (w *World) control() string { return filepath.Join(w.dir, "control") }

// Repetition measures every row once on every system. The systems live side by side,
// and only one at a time has load: what else the machine does then falls on all of
// them alike.
type Repetition struct {
	Settings Settings
	Systems  []System
	Rows     []Row
	// Worlds are systems that run already, in the order of Systems; those that are
	// missing are started when they are needed. May be nil. All are stopped.
	Worlds []*World
	// Dir is the folder for what is started.
	Dir string
	// Tell is called after each measurement.
	Tell func(System, Outcome)
}

// Measure returns an outcome for each row and system. The systems take turns in
// being the first, beginning with the one that first says.
func (r *Repetition) Measure(ctx context.Context, first int) (outcomes []Outcome, err error) {
	worlds := r.Worlds // nil until needed, and after a failure without recovery
	if worlds == nil {
		worlds = make([]*World, len(r.Systems))
	}
	defer func() {
		for _, w := range worlds {
			if w != nil {
				err = errors.Join(err, w.Stop(context.WithoutCancel(ctx)))
			}
		}
	}()
	starts := 0
	for i, b := range blocks(r.Rows) {
		for j := range r.Systems {
			k, tries := (first+i+j)%len(r.Systems), 1
			for left := b; len(left) > 0; {
				if worlds[k] == nil {
					starts++
					dir := filepath.Join(r.Dir, fmt.Sprintf("%s-%d", r.Systems[k].Key, starts))
					if worlds[k], err = StartWorld(ctx, r.Settings, r.Systems[k], dir); err != nil {
						return nil, fmt.Errorf("starting %s: %w", r.Systems[k].Key, err)
					}
				}
				measured, recovered, err := worlds[k].measureRows(ctx, left)
				if err != nil {
					return nil, fmt.Errorf("measuring %s: %w", r.Systems[k].Key, err)
				}
				if last := len(measured) - 1; measured[last].early && tries < maxTries {
					// Nothing was measured: it says nothing about the row.
					tries++
					r.tell(r.Systems[k], measured[last])
					measured = measured[:last]
				}
				left = left[len(measured):]
				for _, o := range measured {
					o.System = r.Systems[k].Key
					outcomes = append(outcomes, o)
					r.tell(r.Systems[k], o)
				}
				if !recovered {
					ended := worlds[k]
					worlds[k] = nil
					if err := ended.Stop(context.WithoutCancel(ctx)); err != nil {
						return nil, fmt.Errorf("stopping %s: %w", r.Systems[k].Key, err)
					}
				}
			}
		}
	}
	return outcomes, nil
}

// blocks cuts the rows into parts that are measured without another system in
// between: a row and those that follow it directly.
func blocks(rows []Row) [][]Row {
	var all [][]Row
	for _, r := range rows {
		if r.direct && len(all) > 0 {
			all[len(all)-1] = append(all[len(all)-1], r)
			continue
		}
		all = append(all, []Row{r})
	}
	return all
}

// measureRows measures rows one directly after the other, until there is one
// without recovery, which is the last of the outcomes then.
func (w *World) measureRows(ctx context.Context, rows []Row) (outcomes []Outcome, recovered bool, err error) {
	var loads []load.Result
	recovered = true
	for _, r := range rows {
		w.turn++
		o, l, err := w.measure(ctx, r)
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		o.Row = r.Name
		if err != nil {
			o.Text, recovered = err.Error(), false
		}
		outcomes, loads = append(outcomes, o), append(loads, l)
		if !recovered {
			break
		}
	}
	// Not after each row: what follows directly must not wait.
	for i := range outcomes {
		waiting, cancel := context.WithTimeout(ctx, arrival)
		if err := w.sink.WaitSpans(waiting, loads[i].Run, loads[i].Accepted); err != nil {
			outcomes[i].Lost = len(w.sink.Missing(loads[i].Run, loads[i].Accepted))
		}
		cancel()
	}
	return outcomes, recovered, nil
}

// measure brings about one failure under load and watches what follows.
func (w *World) measure(ctx context.Context, r Row) (o Outcome, result load.Result, err error) {
	if !r.direct || w.good == "" {
		if err := w.apply(ctx); err != nil {
			o.early = true
			return o, result, err
		}
	}
	c, err := w.connect()
	if err != nil {
		return o, result, err
	}
	begin, err := w.fail(ctx, r, c, &o)
	end := time.Now()
	result, patient := c.stop(ctx)
	if err == nil {
		o.Outage, o.Refused = outage(result, w.settings.Rate, begin.Add(-before), end)
		if w.settings.PatientRate > 0 {
			o.PatientOutage, _ = outage(patient, w.settings.PatientRate, begin.Add(-patientBefore(w.settings)), end)
		}
	}
	return o, result, err
}

// apply makes a new good configuration the last known good.
func (w *World) apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mark := w.mark("good")
	sent := w.offer(candidate{}, mark)
	w.good = mark
	if !w.system.Managed {
		return sent.err
	}
	status, err := w.verdict(ctx, sent)
	if err != nil {
		return fmt.Errorf("applying a good configuration: %w", err)
	}
	if status.verdict != applied {
		return fmt.Errorf("a good configuration was rejected: %s", status.message)
	}
	return nil
}

// fail brings about the failure and waits until the last known good serves again.
// It returns when the failure began.
func (w *World) fail(ctx context.Context, r Row, generator *clients, o *Outcome) (begin time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, giveUp, fmt.Errorf("not within %s", giveUp))
	defer cancel()
	if err := generator.steady(ctx); err != nil {
		o.early = true
		return begin, fmt.Errorf("before the failure: %w", err)
	}
	pid, err := otelcol.ListenerPID(w.otlp)
	if err != nil {
		return begin, err
	}
	begin = time.Now()
	var sent offered
	if r.candidate != nil {
		sent = w.offer(r.candidate(w), w.mark("candidate"))
		begin = sent.time
	}
	if r.harm != nil {
		if r.candidate != nil {
			// Only what serves is in its trial.
			if _, err := w.sink.WaitAttribute(ctx, markKey, w.mark("candidate")); err != nil {
				return begin, fmt.Errorf("the candidate does not run: %w", err)
			}
			if err := generator.WaitAccepted(ctx, enough); err != nil {
				return begin, fmt.Errorf("in the trial: %w", err)
			}
			if err := pause(ctx, r.after); err != nil {
				return begin, fmt.Errorf("in the trial: %w", err)
			}
			if pid, err = otelcol.ListenerPID(w.otlp); err != nil {
				return begin, err
			}
		}
		begin = time.Now()
		if err := r.harm(w, pid); err != nil {
			return begin, err
		}
	}
	o.Failed = -1
	if r.candidate != nil {
		status, err := w.verdict(ctx, sent)
		if err != nil {
			return begin, fmt.Errorf("FAILED was not reported: %w", err)
		}
		if status.verdict != failed {
			return begin, errors.New("was reported as APPLIED")
		}
		o.Failed = status.time.Sub(begin)
	} else if err := w.gone(ctx, pid); err != nil {
		return begin, err
	}
	if err := generator.WaitAccepted(ctx, enough); err != nil {
		return begin, fmt.Errorf("does not serve again: %w", err)
	}
	if _, err := w.sink.WaitAttributeAfter(ctx, markKey, w.good, time.Now()); err != nil {
		return begin, fmt.Errorf("the last known good does not serve again: %w", err)
	}
	if err := generator.WaitAccepted(ctx, enough); err != nil {
		return begin, fmt.Errorf("does not go on to serve: %w", err)
	}
	if err := generator.patientServed(ctx); err != nil {
		return begin, err
	}
	serves, err := otelcol.ListenerPID(w.otlp)
	if err != nil {
		return begin, err
	}
	o.SamePID = serves == pid
	return begin, nil
}

// gone waits until a process does not listen any more.
func (w *World) gone(ctx context.Context, pid int) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		// An error means that nobody listens.
		if p, err := otelcol.ListenerPID(w.otlp); err != nil || p != pid {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d to end: %w", pid, context.Cause(ctx))
		}
	}
}

// outage returns how long there was no service between two moments, and how many
// requests were refused. It is the longest time between two successive answers
// that accept, or the time from the first request that was refused until the first
// answer that accepts a request made after the last such, whichever is longer: a
// candidate that serves for a moment and then fails does not make an outage two
// short ones.
func outage(result load.Result, rate float64, from, to time.Time) (longest time.Duration, refused int) {
	longest, _ = result.LongestGapBetween(from, to)
	// The load goes by the clock.
	made := func(seq uint64) time.Time {
		return result.Started.Add(time.Duration(float64(seq) / rate * float64(time.Second)))
	}
	var first, last uint64
	for _, r := range result.Refused {
		if at := made(r.Seq); at.Before(from) || at.After(to) {
			continue
		}
		refused++
		if first == 0 || r.Seq < first {
			first = r.Seq
		}
		last = max(last, r.Seq)
	}
	if refused == 0 {
		return longest, 0
	}
	for _, s := range result.Successes { // in the order of their answers
		if s.Seq > last {
			return max(longest, s.Time.Sub(made(first))), refused
		}
	}
	return max(longest, to.Sub(made(first))), refused
}

func (r *Repetition) tell(sys System, o Outcome) {
	if r.Tell != nil {
		r.Tell(sys, o)
	}
}
