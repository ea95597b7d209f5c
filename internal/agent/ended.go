package agent

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/console"
	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
	"github.com/otelcol-opamp/otelcol-opamp/internal/guard"
	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/scrub"
)

// Every generated main is a cobra command, and cobra calls its finalizers on the
// main goroutine when Run has returned or panicked: everything is shut down
// then, and the process is about to exit (RFC 0001).
func init() { cobra.OnFinalize(finalize) }

// finalize decides, for a Collector that has ended, whether the process may end
// too. It replaces the process if an agent's configuration did not start.
func finalize() {
	if failpoint.Hit("agent.finalize") != nil {
		return // as in a main that is no cobra command
	}
	if guard.Active() {
		return // the Collector is another process
	}
	where, panicking := process.Panicking()
	agents := allAgents()
	registry.mu.Lock()
	fatal, seen := registry.fatal, registry.seen
	registry.mu.Unlock()
	if len(agents) == 0 && fatal == nil && !seen {
		neverRetrieved()
	}
	// The one whose candidate the host was starting decides; the others only take
	// note. Without one, what is local is to blame, of which any can tell.
	slices.SortStableFunc(agents, func(a, b *Agent) int { return a.startingRank() - b.startingRank() })
	for _, a := range agents {
		a.log.Store(console.Logger()) // the service's has been shut down
		a.hostEnded(where, panicking)
	}
	if fatal != nil {
		fatal.end()
	}
}

// neverRetrieved handles a Collector that ended before it asked for the remote
// configuration: an earlier layer could not be read.
func neverRetrieved() {
	registry.mu.Lock()
	created := registry.created
	registry.mu.Unlock()
	if !created || process.PurposeOf(os.Args[1:]) != process.PurposeRun || CheckURIs() != nil {
		return // with a command line that is wrong the process ends as every Collector does
	}
	uris := slices.DeleteFunc(opampURIs(os.Args[1:]), func(u opampuri.URI) bool { return Supervised(u.Name, os.Args[1:]) })
	if slices.ContainsFunc(uris, func(u opampuri.URI) bool { return u.Guard }) {
		guard.Become() // its child comes here again, and goes on
	}
	log := console.Logger()
	for _, uri := range uris {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		p, err := AcquireProvider(ctx, uri.Name, uri.StateDir, log)
		cancel()
		if err != nil {
			log.Warn("The process ends", zap.Error(err))
			return
		}
		p.agent.hostEnded("", false)
	}
}

// opampURIs returns the opamp: URIs among the arguments. One that is not valid
// is left out: the Collector did not come as far as to refuse it.
func opampURIs(args []string) []opampuri.URI {
	var uris []opampuri.URI
	for _, value := range configValues(args) {
		if uri, err := opampuri.Parse(value); err == nil {
			uris = append(uris, uri)
		}
	}
	return uris
}

// CheckURIs returns why the opamp: URIs among the arguments of this process
// contradict each other.
func CheckURIs() error { return opampuri.Check(opampURIs(os.Args[1:])) }

// startingRank is 0 for an agent whose candidate the host has been given.
func (a *Agent) startingRank() (rank int) {
	found := make(chan int, 1)
	if err := a.call(context.Background(), func() {
		c := a.machine.Record().Candidate
		if c != nil && c.Phase != rollout.PhasePending && c.Phase != rollout.PhaseTriggered {
			found <- 0
			return
		}
		found <- 1
	}); err != nil {
		return 1
	}
	return <-found
}

// NoteCreated tells that a provider was made for a Collector. It is the only
// sign of a Collector that ends before it retrieves.
func NoteCreated() {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	registry.created = true
}

// hostEnded replaces the process if the Collector has ended although nobody told
// it to. Where says where its goroutine panicked, if it did. It returns if the
// process may exit.
func (a *Agent) hostEnded(where string, panicking bool) {
	var ended rollout.HostEnded
	var ask, retrieved, early bool
	var validate func(candidate string) preflight.Outcome
	var scrubber *scrub.Scrubber
	err := a.call(context.Background(), func() {
		ask = a.provider != nil && !a.released && a.told == nil && !a.supervised
		retrieved = a.machine.Generation() > 0
		ended.Reason = hostEndedReason(a)
		// Until an extension of the candidate has started, what is local may be to
		// blame: a layer after the remote one, or all of them at a reload.
		c := a.machine.Record().Candidate
		early = c != nil && c.Phase != rollout.PhaseStarted && c.Phase != rollout.PhaseReady
		ended.NoSafeMode = !canBeSafe(a.store, a.args())
		a.hostGone = true
		if a.told != nil && !a.released {
			// It was told to end while it was starting, and failed at that: for
			// whoever told it, it ends as told.
			a.step(a.stopping())
			a.saveLast()
			process.Die(a.told)
		}
		validate, scrubber = a.validator(), a.scrubber
	})
	if err != nil || !ask {
		return
	}
	if panicking {
		ended.Reason = "the Collector panicked in " + where
	}
	if early && !a.localReadable() {
		local := validate(preflight.None)
		ended.LocalBroken = local.Reason != "" && !local.Transient
		if ended.LocalBroken {
			ended.Reason = scrubber.Text(local.Reason)
		}
	}
	if ended.Reason == "" || !retrieved && !ended.LocalBroken {
		// Nobody is to blame but what is local. The Collector's error is
		// printed after this function, that is never; so ask for it.
		outcome := validate("")
		broken := outcome.Reason != "" && !outcome.Transient
		if broken {
			local := validate(preflight.None)
			ended.LocalBroken = local.Reason != "" && !local.Transient
		}
		switch {
		case broken:
			ended.Reason = scrubber.Text(outcome.Reason)
		case ended.Reason == "":
			ended.Reason = "the Collector ended while it was starting"
		}
	}
	// The step ends in the successor, but for a failure to start one.
	_ = a.call(context.Background(), func() {
		if !retrieved && (!ended.LocalBroken || ended.NoSafeMode) {
			// The successor would get no further than this process did; let it
			// end with the Collector's own error.
			a.step(a.stopping())
			return
		}
		a.step(ended)
	})
}

// validator returns what dry-runs a candidate, or what runs if that is empty. It
// may be called by any goroutine.
func (a *Agent) validator() func(candidate string) preflight.Outcome {
	set := preflight.Settings{Args: a.args(), Timeout: a.settings.Rollout.PreflightTimeout}
	dryRun, name, ctx := a.dryRun, a.name, a.working
	return func(candidate string) preflight.Outcome {
		set.Candidate = ""
		if candidate != "" {
			set.Candidate = preflight.Candidate{Digest: candidate, Name: name}.String()
		}
		return dryRun(ctx, set)
	}
}

// hostEndedReason says what is known while a candidate was being started; empty
// without one.
func hostEndedReason(a *Agent) string {
	c := a.machine.Record().Candidate
	switch {
	case c == nil:
		return ""
	case c.Phase == rollout.PhasePending, c.Phase == rollout.PhaseTriggered:
		return "the Collector's log has the error"
	case c.Phase == rollout.PhaseRetrieved:
		return "the Collector could not create what it configures: an extension or the Collector's own telemetry; its log has the error"
	default:
		return "the Collector ended while it was starting"
	}
}

// ended is what an agent leaves whose Collector ended because of a FatalError.
type ended struct {
	signals <-chan os.Signal
	reason  string
	replace bool // a candidate was to blame, or the server wants a restart
}

// told returns what told the process to end; nil if nothing did.
func (e *ended) told() os.Signal {
	select {
	case s := <-e.signals:
		return s
	default:
		return nil
	}
}

func (e *ended) end() {
	if s := e.told(); s != nil {
		process.Die(s)
	}
	if e.replace {
		log := console.Logger()
		log.Warn("Replacing the process", zap.String("reason", e.reason))
		err := process.Reexec(process.Successor{Reason: e.reason, Told: e.told})
		log.Error("The process could not be replaced", zap.Error(err))
	}
	// The Collector would exit with 0, which service managers take for the end
	// of a job.
	os.Exit(1) //nolint:forbidigo // this is the end of the process
}
