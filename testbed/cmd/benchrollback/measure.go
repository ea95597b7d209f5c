package main

import (
	"bytes"
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
	// maxTries is how often a row is begun on a system that does not serve even
	// before it is made to fail.
	maxTries = 3
	// enough is a number of requests after which the load counts as steady.
	enough = 50
	// poll is for what nothing announces. It does not enter the figures.
	poll = 5 * time.Millisecond
	// before is how much of the time before the failure is looked at: the last
	// success before an outage is needed to see its whole length.
	before = 50 * time.Millisecond
)

// outcome is what one failure has cost.
type outcome struct {
	system, row string
	// text says what went wrong beyond the plan; the figures are void then.
	text string
	// early means that it went wrong before the failure that is to be measured.
	early bool
	// outage is the time without service, as outage defines it.
	outage time.Duration
	// failed is the time from the offer, or from the harm that was done, until the
	// server was told; negative when there was nothing to tell.
	failed  time.Duration
	refused int
	// lost is the number of spans that were accepted and never arrived.
	lost    int
	samePID bool
}

// String is for the progress line.
func (o outcome) String() string {
	if o.text != "" {
		return o.row + ": " + o.text
	}
	text := fmt.Sprintf("%s: outage %s, %d refused, %d accepted spans lost", o.row, o.outage.Round(time.Millisecond), o.refused, o.lost)
	if o.failed >= 0 {
		text += fmt.Sprintf(", FAILED after %s", o.failed.Round(time.Millisecond))
	}
	return text
}

// world is what surrounds a system.
type world struct {
	settings settings
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
func (w *world) write(name, format string, args ...any) (string, error) {
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		return "", fmt.Errorf("writing a configuration: %w", err)
	}
	return path, nil
}

// mark is different for each failure.
func (w *world) mark(kind string) string { return fmt.Sprintf("%s-%d", kind, w.turn) }

// control is the path of the file that commands the component of controlled.
func (w *world) control() string { return filepath.Join(w.dir, "control") }

// repetition measures every row once on every system. The systems are started for
// it and live side by side, and only one at a time has load: what else the machine
// does then falls on all of them alike.
type repetition struct {
	settings settings
	systems  []system
	rows     []row
	dir      string
	tell     func(system, outcome)
}

// measure returns an outcome for each row and system. The systems take turns in
// being the first, beginning with the one that first says.
func (r *repetition) measure(ctx context.Context, first int) (outcomes []outcome, err error) {
	worlds := make([]*world, len(r.systems)) // nil until needed, and after a failure without recovery
	defer func() {
		for _, w := range worlds {
			if w != nil {
				err = errors.Join(err, w.stop(context.WithoutCancel(ctx)))
			}
		}
	}()
	starts := 0
	for i, b := range blocks(r.rows) {
		for j := range r.systems {
			k, tries := (first+i+j)%len(r.systems), 1
			for left := b; len(left) > 0; {
				if worlds[k] == nil {
					starts++
					dir := filepath.Join(r.dir, fmt.Sprintf("%s-%d", r.systems[k].key, starts))
					if worlds[k], err = startWorld(ctx, r.settings, r.systems[k], dir); err != nil {
						return nil, fmt.Errorf("starting %s: %w", r.systems[k].key, err)
					}
				}
				measured, recovered, err := worlds[k].measureRows(ctx, left)
				if err != nil {
					return nil, fmt.Errorf("measuring %s: %w", r.systems[k].key, err)
				}
				if last := len(measured) - 1; measured[last].early && tries < maxTries {
					// Nothing was measured: it says nothing about the row.
					tries++
					r.tell(r.systems[k], measured[last])
					measured = measured[:last]
				}
				left = left[len(measured):]
				for _, o := range measured {
					o.system = r.systems[k].key
					outcomes = append(outcomes, o)
					r.tell(r.systems[k], o)
				}
				if !recovered {
					ended := worlds[k]
					worlds[k] = nil
					if err := ended.stop(context.WithoutCancel(ctx)); err != nil {
						return nil, fmt.Errorf("stopping %s: %w", r.systems[k].key, err)
					}
				}
			}
		}
	}
	return outcomes, nil
}

// blocks cuts the rows into parts that are measured without another system in
// between: a row and those that follow it directly.
func blocks(rows []row) [][]row {
	var all [][]row
	for _, r := range rows {
		if r.direct && len(all) > 0 {
			all[len(all)-1] = append(all[len(all)-1], r)
			continue
		}
		all = append(all, []row{r})
	}
	return all
}

// measureRows measures rows one directly after the other, until there is one
// without recovery, which is the last of the outcomes then.
func (w *world) measureRows(ctx context.Context, rows []row) (outcomes []outcome, recovered bool, err error) {
	var loads []load.Result
	recovered = true
	for _, r := range rows {
		w.turn++
		o, l, err := w.measure(ctx, r)
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		o.row = r.name
		if err != nil {
			o.text, recovered = err.Error(), false
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
			outcomes[i].lost = len(w.sink.Missing(loads[i].Run, loads[i].Accepted))
		}
		cancel()
	}
	return outcomes, recovered, nil
}

// startWorld starts a system and what surrounds it.
func startWorld(ctx context.Context, s settings, sys system, dir string) (*world, error) {
	w := &world{settings: s, dir: dir}
	if err := w.start(ctx, sys); err != nil {
		return nil, errors.Join(err, w.stop(context.WithoutCancel(ctx)))
	}
	return w, nil
}

func (w *world) start(ctx context.Context, sys system) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	if w.server, err = opampserver.Start(opampserver.Settings{}); err != nil {
		return err
	}
	if w.sink, err = sink.Start(sink.Settings{}); err != nil {
		return err
	}
	if w.otlp, err = otelcol.FreeAddr(); err != nil {
		return err
	}
	if w.spare, err = otelcol.FreeAddr(); err != nil {
		return err
	}
	settings, err := sys.prepare(w)
	if err != nil {
		return err
	}
	if w.settings.keep != "" {
		if w.log, err = os.OpenFile(filepath.Join(w.dir, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return fmt.Errorf("keeping the output: %w", err)
		}
		settings.LogTo = w.log
	}
	if w.service, err = startService(settings); err != nil {
		return err
	}
	agent, err := w.server.WaitFor(ctx, "", func(a opampserver.Agent) bool {
		// The supervisor says that it is healthy when it is ready to be offered
		// something: what comes earlier is APPLIED without being run.
		return a.Connected && a.Identifying != nil && a.Health.GetHealthy() && a.Capabilities&protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig != 0
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, w.service.running().Log())
	}
	w.uid = agent.UID
	return nil
}

// stop ends whatever was started.
func (w *world) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var errs []error
	if w.service != nil {
		errs = append(errs, w.service.stop(ctx))
	}
	if w.log != nil {
		errs = append(errs, w.log.Close())
	}
	if w.server != nil {
		errs = append(errs, w.server.Stop(ctx))
	}
	if w.sink != nil {
		errs = append(errs, w.sink.Stop(ctx))
	}
	return errors.Join(errs...)
}

// measure brings about one failure under load and watches what follows.
func (w *world) measure(ctx context.Context, r row) (o outcome, result load.Result, err error) {
	if !r.direct || w.good == "" {
		if err := w.apply(ctx); err != nil {
			o.early = true
			return o, result, err
		}
	}
	generator, err := load.Start(load.Settings{Endpoint: w.otlp, Rate: w.settings.rate})
	if err != nil {
		return o, result, err
	}
	begin, err := w.fail(ctx, r, generator, &o)
	end := time.Now()
	stopping, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	result = generator.Stop(stopping)
	if err == nil {
		o.outage, o.refused = outage(result, w.settings.rate, begin.Add(-before), end)
	}
	return o, result, err
}

// apply makes a new good configuration the last known good.
func (w *world) apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mark := w.mark("good")
	status, err := w.verdict(ctx, w.offer(candidate{}, mark))
	if err != nil {
		return fmt.Errorf("applying a good configuration: %w", err)
	}
	if status.verdict != applied {
		return fmt.Errorf("a good configuration was rejected: %s", status.message)
	}
	w.good = mark
	return nil
}

// offered is a configuration that was sent.
type offered struct {
	hash []byte
	time time.Time
	from int // index of the first message that may answer it
	err  error
}

// offer sends the configuration exactly once: one that the agent reports to have
// left would otherwise be offered again and again.
func (w *world) offer(c candidate, mark string) offered {
	o := opampserver.YAML(c.yaml(mark))
	sent := offered{hash: o.Digest(), time: time.Now(), from: w.server.Mark()}
	sent.err = w.server.OfferOnce(w.uid, o)
	return sent
}

// told is what the agent has said of a configuration.
type told struct {
	time    time.Time
	verdict protobufs.RemoteConfigStatuses
	message string
}

// verdict waits for the agent to say what has become of an offer.
func (w *world) verdict(ctx context.Context, o offered) (told, error) {
	if o.err != nil {
		return told{}, o.err
	}
	m, err := w.server.WaitMessage(ctx, o.from, func(m opampserver.Message) bool {
		s := m.Received.GetRemoteConfigStatus()
		return s != nil && bytes.Equal(s.GetLastRemoteConfigHash(), o.hash) && (s.GetStatus() == applied || s.GetStatus() == failed)
	})
	if err != nil {
		return told{}, err
	}
	s := m.Received.GetRemoteConfigStatus()
	return told{m.Time, s.GetStatus(), s.GetErrorMessage()}, nil
}

// fail brings about the failure and waits until the last known good serves again.
// It returns when the failure began.
func (w *world) fail(ctx context.Context, r row, generator *load.Generator, o *outcome) (begin time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, giveUp, fmt.Errorf("not within %s", giveUp))
	defer cancel()
	if err := generator.WaitAccepted(ctx, enough); err != nil {
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
			if pid, err = otelcol.ListenerPID(w.otlp); err != nil {
				return begin, err
			}
		}
		begin = time.Now()
		if err := r.harm(w, pid); err != nil {
			return begin, err
		}
	}
	o.failed = -1
	if r.candidate != nil {
		status, err := w.verdict(ctx, sent)
		if err != nil {
			return begin, fmt.Errorf("FAILED was not reported: %w", err)
		}
		if status.verdict != failed {
			return begin, errors.New("was reported as APPLIED")
		}
		o.failed = status.time.Sub(begin)
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
	serves, err := otelcol.ListenerPID(w.otlp)
	if err != nil {
		return begin, err
	}
	o.samePID = serves == pid
	return begin, nil
}

// gone waits until a process does not listen any more.
func (w *world) gone(ctx context.Context, pid int) error {
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
