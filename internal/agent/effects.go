package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

func environ() []string { return os.Environ() }

// step gives the machine an event and performs the effects in order.
func (a *Agent) step(event rollout.Event) {
	for _, effect := range a.machine.Step(event) {
		hit(effect)
		if p, ok := effect.(rollout.Persist); ok {
			if err := a.persist(p); err != nil {
				a.step(rollout.PersistFailed{Reason: a.scrubber.Text(err.Error())})
				return
			}
			continue
		}
		a.perform(effect)
		a.took(effect)
	}
	a.afterStep()
	a.showState()
	a.publish()
}

// hit lets a test stop the process before an effect.
func hit(effect rollout.Effect) {
	_, name, _ := strings.Cut(fmt.Sprintf("%T", effect), ".")
	_ = failpoint.Hit("rollout." + strings.ToLower(name)) // effects have no error that could be returned
}

// persist returns an error only for what must be saved.
func (a *Agent) persist(p rollout.Persist) error {
	a.stale = true
	err := a.store.save(p.Record)
	if err == nil {
		a.unsaved, a.saveError = nil, ""
		if p.Record.Candidate == nil {
			if err := a.store.keepBodies(append(a.machine.Digests(), a.connections.record.Wanted)); err != nil {
				a.log.Load().Warn("Removing configurations that are not needed any more", zap.Error(err))
			}
			a.pruneFiles()
		}
		return nil
	}
	a.writeErrors++
	if p.Must {
		return err
	}
	if a.storeErr != nil {
		return nil // said once, at start
	}
	a.log.Load().Error("Saving the rollout's record; trying again", zap.Error(err), zap.Duration("after", retrySave))
	a.unsaved, a.saveError = &p.Record, err.Error()
	if a.retrying {
		return nil
	}
	a.retrying = true
	a.after(retrySave, func() {
		a.retrying = false
		if a.unsaved != nil {
			_ = a.persist(rollout.Persist{Record: *a.unsaved}) // a failure is tried again
			a.reportHealth(false)
		}
	})
	return nil
}

// saveLast tries once more to save what could not be saved: the next process must
// not take what the server was told for undone.
func (a *Agent) saveLast() {
	if a.unsaved == nil {
		return
	}
	if err := a.store.save(*a.unsaved); err != nil {
		a.log.Load().Error("The rollout's record is not saved: the next start runs what it last was", zap.Error(err))
		return
	}
	a.unsaved = nil
}

// after runs f on the agent's goroutine when d has passed, unless the agent
// closes before.
func (a *Agent) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() { a.queue.post(f) })
}

func (a *Agent) perform(effect rollout.Effect) {
	switch e := effect.(type) {
	case rollout.Check:
		a.check(e)
	case rollout.Trigger:
		a.trigger()
	case rollout.Serve:
		a.serve(e)
	case rollout.Report:
		a.note("status "+string(e.Status.State), remoteconfig.Ref{Hash: e.Status.Hash}, e.Status.Message)
		if e.Status.State == rollout.StatusFailed {
			a.log.Load().Warn("Remote configuration failed", zap.Stringer("config", remoteconfig.Ref{Hash: e.Status.Hash, Digest: e.Status.Hash}), zap.String("reason", e.Status.Message))
		}
		a.reportStatus(e.Status)
	case rollout.ReportSettings:
		a.note("values of connection settings: "+string(e.Status.State), remoteconfig.Ref{Hash: e.Status.Hash}, e.Status.Message)
		a.reportSettings()
		switch e.Status.State {
		case rollout.StatusUnset:
			a.queue.post(a.offerValues) // an operator wants them to be tried again
		case rollout.StatusApplied:
			a.queue.post(a.reviseValues) // the description may have changed meanwhile
		case rollout.StatusApplying, rollout.StatusFailed:
		}
	case rollout.StartTimer:
		a.startTimer(e)
	case rollout.Restart:
		a.restart(e)
	case rollout.Moved:
		a.note(string(e.From)+" → "+string(e.To), e.Ref, e.Reason)
		a.log.Load().Info("Remote configuration rollout", zap.String("from", string(e.From)), zap.String("to", string(e.To)),
			zap.Stringer("config", e.Ref), zap.String("reason", e.Reason))
	case rollout.Persist: // see step
	}
}

func (a *Agent) startTimer(e rollout.StartTimer) {
	durations := map[rollout.Timer]time.Duration{
		rollout.DrainTimer:  a.settings.Rollout.DrainTimeout,
		rollout.ApplyTimer:  a.settings.Rollout.ApplyTimeout,
		rollout.TrialTimer:  a.settings.Rollout.TrialPeriod,
		rollout.SettleTimer: min(settleTime, a.settings.Rollout.ApplyTimeout/2),
		rollout.QuietTimer:  min(quietTime, a.settings.Rollout.ApplyTimeout/2),
		rollout.FatalTimer:  fatalTime,
		rollout.StableTimer: a.settings.Rollout.TrialPeriod,
	}
	after := durations[e.Timer]
	if e.Timer == rollout.ApplyTimer && a.serving != nil {
		after += pauseTime(a.serving.failures) // the start is put off by as much
	}
	a.timers[e.ID] = a.after(after, func() {
		delete(a.timers, e.ID)
		a.step(rollout.TimerFired{ID: e.ID})
	})
}

// check saves the body of an offer and dry-runs it in a child process. The
// outcome comes back through the queue.
func (a *Agent) check(e rollout.Check) {
	ref := e.Ref
	checked := rollout.Checked{Ref: ref, Context: a.verdictContext()}
	answer := func() { a.queue.post(func() { a.step(checked) }) }
	var offer remoteconfig.Offer
	if ref.Digest != "" {
		var err error
		if offer, err = a.offer(ref.Digest); err != nil { // with values, it may only be in the folder
			checked.Reason, checked.Transient = a.scrubber.Text("reading the configuration: "+err.Error()), true
			answer()
			return
		}
	}
	// A candidate whose values cannot be read fails its dry run.
	a.connections.checked, _ = a.store.values(ref.Values)
	var texts [][]byte
	for _, f := range offer.Files() {
		texts = append(texts, f.Body)
	}
	a.newScrubber(texts...)
	conf, err := offer.ParseWithin(a.policy().Limits())
	if err == nil {
		// What is a reference is certain only once it is decoded.
		a.newScrubber(append(texts, fmt.Append(nil, conf))...)
	}
	if err == nil && e.Settings == "" { // values are tried with what was accepted before
		_, err = a.policy().Check(conf, a.localSide())
	}
	if err != nil {
		checked.Reason = a.scrubber.Text(err.Error())
		answer()
		return
	}
	candidate := preflight.Candidate{Digest: preflight.None, Values: ref.Values, Name: a.name}
	if ref.Digest != "" {
		if err := a.store.saveBody(offer); err != nil {
			checked.Reason, checked.Transient = a.scrubber.Text("saving the configuration: "+err.Error()), true
			answer()
			return
		}
		candidate.Digest = ref.Digest
	}
	set := preflight.Settings{Args: a.args(), Candidate: candidate.String(), Timeout: a.settings.Rollout.PreflightTimeout}
	scrubber := a.scrubber
	a.work.Go(func() {
		begin := time.Now()
		outcome := a.dryRun(a.working, set)
		a.log.Load().Debug("Dry run of a candidate", zap.Stringer("config", ref), zap.Duration("took", time.Since(begin)), zap.Bool("passed", outcome.Reason == ""))
		if outcome.Reason != "" {
			checked.Reason, checked.Transient = scrubber.Text(outcome.Reason), outcome.Transient
		}
		answer()
	})
}

// trigger makes the host reload, once per Retrieve. Between two Retrieves
// nothing is to be done: the next one is given what the machine wants.
func (a *Agent) trigger() {
	if a.watch != nil {
		a.watch.fire()
	}
}

// served is the answer to a Retrieve.
type served struct {
	composed

	ref      remoteconfig.Ref
	failures int
	// reason is why the last start failed, and rung what runs now.
	reason, rung string
}

// serve looks up what the machine wants to run.
func (a *Agent) serve(e rollout.Serve) {
	c := composed{conf: a.store.safe()} // complete: it has no block of any other extension
	if !a.safe {
		var err error
		c, err = compose(a.store, a.offer, e.Ref, a.name, a.args(), a.required)
		if err != nil {
			a.log.Load().Error("A configuration that was saved cannot be used", zap.Stringer("config", e.Ref), zap.Error(err))
			a.step(rollout.Unusable{Ref: e.Ref, Reason: a.scrubber.Text(err.Error())})
			return
		}
	}
	a.latest, a.connections.served = c.conf, c.values
	a.newScrubber()
	a.serving = &served{composed: c, ref: e.Ref, failures: e.Failures, reason: a.machine.Record().Ladder.Reason, rung: string(e.Rung)}
}

// composed is a remote configuration with all that belongs to it.
type composed struct {
	conf   map[string]any
	values connsettings.Values
	// files is the folder that values refer to.
	files string
	// remote: there is a remote configuration, if an empty one.
	remote bool
}

// compose returns what the host is given for ref. What was accepted is not judged
// again, but must not take the management of this Collector away.
func compose(s *store, body func(digest string) (remoteconfig.Offer, error), ref remoteconfig.Ref, name string, args, required []string) (composed, error) {
	c := composed{conf: map[string]any{}, files: s.filesPath()}
	if ref.Digest != "" {
		offer, err := body(ref.Digest)
		if err != nil {
			return composed{}, err
		}
		if c.conf, err = offer.Parse(); err != nil {
			return composed{}, err
		}
		c.remote = len(c.conf) > 0
		if c.conf, err = policy.Protect(c.conf, protected(name, args, required)); err != nil {
			return composed{}, err
		}
	}
	var err error
	if c.values, err = s.values(ref.Values); err != nil {
		return composed{}, err
	}
	c.conf = policy.KeepExtensions(c.conf, keptExtensions(name, args, required))
	if len(c.values.Own) == 0 {
		return c, nil
	}
	merged := confmap.NewFromStringMap(c.conf)
	overlay := owntelemetry.Overlay(c.values, name, telemetryLayers(c.conf, name, args))
	if err := merged.Merge(confmap.NewFromStringMap(overlay)); err != nil {
		return composed{}, fmt.Errorf("adding destinations of own telemetry: %w", err)
	}
	c.conf = merged.ToStringMap()
	return c, nil
}

// telemetryLayers are the layers that own telemetry is united with.
func telemetryLayers(remote map[string]any, name string, args []string) owntelemetry.Lists {
	before, after := localLayers(name, args)
	return owntelemetry.Lists{Below: append(before, remote), Above: after, Hidden: !layersReadable(args)}
}

func (a *Agent) offer(digest string) (remoteconfig.Offer, error) {
	if offer, ok := a.offers[digest]; ok {
		return offer, nil
	}
	return a.store.body(digest)
}

// offered takes the newest offer. Older ones that arrived since the goroutine
// last looked are gone: the newest offer wins.
func (a *Agent) offered() {
	offer := a.newest.Swap(nil)
	if offer == nil {
		return
	}
	ref := offer.Ref()
	a.offers[ref.Digest] = *offer
	a.step(rollout.Offered{Ref: ref, Context: a.verdictContext()})
	a.forgetOffers()
}

// forgetOffers keeps in memory only what the machine may still need from it.
func (a *Agent) forgetOffers() {
	needed := map[string]bool{}
	for _, digest := range a.machine.Digests() {
		needed[digest] = true
	}
	for digest := range a.offers {
		if !needed[digest] {
			delete(a.offers, digest)
		}
	}
}

// sessionContext bounds calls into the client that should not wait at all.
func sessionContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), stopTimeout)
}
