package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/console"
	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
	"github.com/otelcol-opamp/otelcol-opamp/internal/guard"
	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/scrub"
)

const (
	// endWork bounds the wait for the agent's own goroutines before the process
	// is replaced: a dry run that is killed ends at once.
	endWork = time.Second
	// safeLook is the time between two looks at whether safe mode can be left.
	safeLook = 15 * time.Second
	// safeRetry is the time after which safe mode is left without a sign of a
	// repair: rarely enough not to be a loop.
	safeRetry = 5 * time.Minute
	// firstPause is the pause before a start that follows a failed one; it
	// doubles up to maxPause. Five starts in a row then take longer than the
	// 10 s in which systemd allows five.
	firstPause = 2 * time.Second
	maxPause   = time.Minute
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
	if !created || process.PurposeOf(os.Args[1:]) != process.PurposeRun {
		return
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

// canBeSafe reports whether there is something to run in safe mode, and a way to
// get there.
func canBeSafe(s *store, args []string) bool {
	return process.CanReexec && len(s.safe()) > 0 &&
		slices.ContainsFunc(safeArgs(args), func(arg string) bool { return strings.HasPrefix(arg, "--config=opamp:") })
}

// validator returns what dry-runs a candidate, or what runs if that is empty. It
// may be called by any goroutine.
func (a *Agent) validator() func(candidate string) preflight.Outcome {
	set := preflight.Settings{Args: a.args(), Timeout: a.settings.Rollout.PreflightTimeout}
	dryRun, name, ctx := a.dryRun, a.name, a.working
	return func(candidate string) preflight.Outcome {
		set.Candidate = candidate
		if candidate != "" && name != "" {
			set.Candidate += "@" + name
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

// restarting is how far a restart that the server wants has come.
type restarting string

const (
	restartNone    restarting = ""
	restartWanted  restarting = "wanted"  // until the service is ready
	restartOrdered restarting = "ordered" // the host has been told
)

// restartCommanded restarts the Collector because the server wants it: the host
// ends in order, and the process is replaced. A service that is just starting is
// waited for: ending it then leaves the host deadlocked (core issue 12495).
func (a *Agent) restartCommanded() {
	if a.settings.Restart == nil || a.restarts == restartOrdered {
		return
	}
	if !a.ready || a.extension == nil {
		a.restarts = restartWanted
		return
	}
	a.restarts = restartOrdered
	a.log.Load().Info("The server wants the Collector to be restarted")
	a.note("restart command", remoteconfig.Ref{}, "")
	a.showState()
	a.work.Go(a.settings.Restart)
	a.after(stopGrace, func() {
		if a.released {
			return
		}
		a.log.Load().Warn("The Collector does not end by itself for a restart")
		a.step(a.stopping())
		a.restart(rollout.Restart{Reason: restartReason})
	})
}

const restartReason = "the server's restart command"

// lockFile names the lock of the state folder of the agent called name among the
// files that are handed over to a successor.
func lockFile(name string) string { return "lock:" + name }

// restart replaces the process. It returns only if the host has ended and the
// process cannot be replaced: then it ends with the host's own error.
func (a *Agent) restart(e rollout.Restart) {
	if a.supervised || a.provider == nil {
		// Who started the process starts it again, after a pause; a successor
		// would come here at once, and nobody would see that it failed.
		a.log.Load().Error("The Collector does not start, and the process ends", zap.String("reason", e.Reason))
		os.Exit(1) //nolint:forbidigo // the host does not do what it is told
	}
	a.log.Load().Warn("Replacing the process", zap.String("reason", e.Reason), zap.Bool("safe_mode", e.SafeMode))
	a.note("process replaced", remoteconfig.Ref{}, e.Reason)
	a.showState()
	a.saveLast()
	successor := process.Successor{Reason: e.Reason, Keep: map[string]*os.File{}, Told: a.stopWatched}
	ladders := map[string]rollout.Ladder{a.name: a.machine.Record().Ladder}
	for _, b := range allAgents() {
		b.cancel() // a dry run must not outlive this self
		if b != a {
			if ladder, ok := b.stopForOther(); ok {
				ladders[b.name] = ladder
			}
		}
		if b.store != nil && b.store.dir.Lock() != nil {
			successor.Keep[lockFile(b.name)] = b.store.dir.Lock()
		}
	}
	successor.State = handLadders(ladders)
	a.waitForWork()
	switch {
	case e.SafeMode:
		successor.Args, successor.Original = safeArgs(a.args()), a.args()
	case a.safe:
		successor.Args = a.args()
	}
	err := process.Reexec(successor)
	a.log.Load().Error("The process could not be replaced and ends; its next start runs what this one was to", zap.Error(err))
	if !a.hostGone {
		os.Exit(1) //nolint:forbidigo // the host does not do what it is told
	}
}

// stopForOther makes an agent take note that the process is replaced because of
// another agent: that is no verdict on what it has in trial.
func (a *Agent) stopForOther() (ladder rollout.Ladder, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), endWork)
	defer cancel()
	noted := make(chan rollout.Ladder, 1)
	err := a.call(ctx, func() {
		a.step(rollout.Stopping{})
		a.saveLast()
		noted <- a.machine.Record().Ladder
	})
	if err != nil {
		return rollout.Ladder{}, false
	}
	return <-noted, true
}

// ladderState is the key under which an agent's ladder is handed over to the
// successor of the process: on a full disk it is nowhere else.
func ladderState(name string) string { return "ladder:" + name }

func handLadders(ladders map[string]rollout.Ladder) map[string]json.RawMessage {
	state := map[string]json.RawMessage{}
	for name, ladder := range ladders {
		if data, err := json.Marshal(ladder); err == nil && ladder.Failures > 0 {
			state[ladderState(name)] = data
		}
	}
	return state
}

// handedLadder returns the ladder that the former self of the process handed over.
func handedLadder(name string) (ladder rollout.Ladder) {
	former, ok := process.FromFormer()
	if !ok || json.Unmarshal(former.State[ladderState(name)], &ladder) != nil {
		return rollout.Ladder{}
	}
	return ladder
}

// stopWatched ends the watch for signals and returns what told the process to
// end; nil if nothing did.
func (a *Agent) stopWatched() os.Signal {
	if a.provider != nil && a.provider.unwatch != nil {
		a.provider.unwatch()
	}
	if a.told == nil {
		select {
		case a.told = <-a.signals:
		default:
		}
	}
	return a.told
}

func (a *Agent) waitForWork() {
	done := make(chan struct{})
	go func() {
		a.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endWork):
	}
}

// args are the arguments with which somebody started this process.
func (a *Agent) args() []string {
	if a.original != nil {
		return a.original
	}
	return os.Args[1:]
}

// safeArgs returns the arguments of a process in safe mode: those that are no
// local layer.
func safeArgs(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name != "--config" && name != "-config" && name != "--set" && name != "-set" {
			out = append(out, args[i])
			continue
		}
		if !hasValue && i+1 < len(args) {
			i++
			value = args[i]
		}
		if strings.HasPrefix(value, "opamp:") {
			out = append(out, "--config="+value)
		}
	}
	return out
}

// lookToLeaveSafeMode starts the process anew with its own arguments when what
// is local has changed and passes the dry run. What is not local may have been
// at fault (a server of configurations, a port), so that it also tries without
// a change, rarely.
func (a *Agent) lookToLeaveSafeMode(entered string, since time.Time) {
	a.after(safeLook, func() {
		now := verdictContext(a.args())
		if now == entered && time.Since(since) < safeRetry {
			a.lookToLeaveSafeMode(entered, since)
			return
		}
		validate := a.validator()
		a.work.Go(func() {
			outcome := validate("")
			a.queue.post(func() {
				if outcome.Reason == "" {
					a.step(rollout.Repaired{})
					return
				}
				a.log.Load().Warn("The configuration with which safe mode could be left is not valid", zap.String("reason", a.scrubber.Text(outcome.Reason)))
				a.lookToLeaveSafeMode(now, time.Now())
			})
		})
	})
}

// pauseTime is how long a start that follows failed ones is put off.
func pauseTime(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	d := firstPause
	for i := 1; i < failures && d < maxPause; i++ {
		d *= 2
	}
	return min(d, maxPause)
}

// pause waits before a start that follows failed ones.
func pause(ctx context.Context, failures int) error {
	timer := time.NewTimer(pauseTime(failures))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting before the next start: %w", ctx.Err())
	}
}

// safeBlocks are what a process in safe mode runs: this extension and those it
// needs, as they were written.
type safeBlocks map[string]any

var errLiteralSecrets = errors.New("there is no safe mode: the block of this extension, or of one it needs, holds secrets as literals; use references such as ${env:TOKEN}")

// saveSafeMode stores the blocks for safe mode, if they hold no secret.
func (a *Agent) saveSafeMode() {
	if a.storeErr != nil || a.safe {
		return
	}
	all, _ := a.snapshot.Unexpanded["extensions"].(map[string]any)
	blocks := safeBlocks{}
	for _, id := range a.settings.Requires {
		block, ok := all[id]
		if !ok {
			return // the host does not show what was written
		}
		blocks[id] = block
	}
	if redacted(map[string]any(blocks)) {
		a.log.Load().Info("Safe mode", zap.Error(errLiteralSecrets))
		blocks = nil
	}
	if err := a.store.saveSafe(blocks); err != nil {
		a.log.Load().Warn("Saving the configuration for safe mode", zap.Error(err))
	}
}

func redacted(value any) bool {
	switch v := value.(type) {
	case string:
		return v == "[REDACTED]"
	case map[string]any:
		for _, x := range v {
			if redacted(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, redacted)
	}
	return false
}
