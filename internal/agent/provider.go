package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/console"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// ProviderLease is the confmap provider's hold on an agent. Its methods must
// not be called concurrently, as is the case with a provider's.
type ProviderLease struct {
	agent   *Agent
	unwatch func() // ends the watch for signals
	once    sync.Once
	err     error
}

// AcquireProvider opens the agent called name, whose state folder is stateDir
// or, if that is empty, the one of the environment. A folder that another
// process owns is an error; one that cannot be used is not: the agent runs and
// accepts no remote configuration. The caller must Release the lease.
func AcquireProvider(ctx context.Context, name, stateDir string, log *zap.Logger) (*ProviderLease, error) {
	a, err := lease(ctx, name, func() (*Agent, error) {
		if Supervised(name, os.Args[1:]) {
			a := newAgent(name, nil, errSupervised, log)
			a.supervised = true
			return a, nil
		}
		path, err := statedir.Locate(stateDir, name)
		if err != nil {
			return nil, err
		}
		former, reexecuted := process.FromFormer()
		dir, err := statedir.Open(path, former.File(lockFile(name)))
		if _, ok := errors.AsType[*statedir.LockedError](err); ok {
			return nil, err
		}
		if dir == nil {
			log.Error(folderUnusable, zap.String("folder", path), zap.Error(err))
		} else if reason := statedir.Volatile(path); reason != "" {
			log.Warn("The state folder does not last. When it is gone the Collector starts on its local configuration, as another agent to the server, "+
				"and does not remember what it rejected. Mount a volume there, or name a folder on one with state_dir= in the opamp: URI, with "+
				statedir.EnvStateDir+" or with StateDirectory= of systemd", zap.String("folder", path), zap.String("reason", reason))
		}
		if owner, user, foreign := statedir.ForeignOwner(path); foreign && dir != nil {
			log.Warn("The state folder belongs to another user. That one can neither read nor replace what this process writes there: a Collector that runs as "+
				"the folder's owner later will not be able to use the folder. Run this one as that user, or give the folder and all in it to the user that it runs as",
				zap.String("folder", path), zap.Int("owner", owner), zap.Int("user", user))
		}
		process.IgnoreHangup()
		a := newAgent(name, dir, err, log)
		a.original, a.safe = former.Args, former.Args != nil
		if reexecuted {
			console.Logger().Warn("This process replaces its former self", zap.String("reason", former.Reason), zap.Bool("safe_mode", a.safe))
		}
		return a, nil
	})
	if err != nil {
		return nil, err
	}
	p := &ProviderLease{agent: a}
	p.unwatch = process.WatchStop(func(s os.Signal) {
		select {
		case a.signals <- s:
		default: // one is enough
		}
		a.queue.post(func() { a.toldToStop(s) })
	})
	err = a.call(ctx, func() {
		a.provider = p
		a.log.Store(log)
		a.openToOperators()
		a.lookAtRequests()
		if a.storeErr != nil {
			a.tryFolder()
		}
		if !a.safe && len(configValues(a.args())) > 0 && len(configURIs(a.args())) == 0 {
			// The host's own word for it is "empty configuration file".
			console.Logger().Warn("No local configuration is among --config: nothing says where the OpAMP server is. " +
				"Add --config=FILE with an extension opamp before the opamp: URI")
		}
		if a.safe {
			a.lookToLeaveSafeMode(verdictContext(a.args()), time.Now())
		}
		a.after(pairTimeout, func() {
			if a.provider == p && a.extension == nil && a.instance == 0 {
				log.Warn("The configuration has an opamp: URI and no extension of the same name is running: nothing is managed",
					zap.String("name", name))
				a.required = nil // what such a process dies of is no affair of ours
				a.saveExtension(ExtensionSettings{Rollout: a.settings.Rollout})
			}
		})
	})
	if err != nil {
		return nil, errors.Join(err, p.Release(ctx))
	}
	return p, nil
}

// Retrieved is the answer to [ProviderLease.Retrieve].
type Retrieved struct {
	// Conf is the remote configuration that is to run; an empty map if there
	// is none. It must not be modified.
	Conf map[string]any
	// NoPipelines means that a Collector without a pipeline is what is wanted:
	// it waits for its first configuration, or is in safe mode.
	NoPipelines bool
	// Done must be called when the configuration is not in use any more.
	Done func(context.Context) error
}

// Retrieve returns the remote configuration that is to run. Changed is called at
// most once, from a goroutine, when another one is to run; not after Done has
// returned.
func (p *ProviderLease) Retrieve(ctx context.Context, partial bool, changed func()) (*Retrieved, error) {
	a := p.agent
	if partial {
		a.custom.registry.NotReady() // receivers may be exchanged without the extension being told
	}
	w := &watch{notify: changed}
	var answer *served
	if err := a.call(ctx, func() {
		a.serving = nil
		a.retrieved = time.Now()
		a.step(rollout.Retrieve{Partial: partial, Managed: a.managed()})
		answer = a.serving
		a.watch = w
	}); err != nil {
		return nil, fmt.Errorf("retrieving the remote configuration: %w", err)
	}
	done := func(ctx context.Context) error {
		if err := a.call(ctx, func() {
			if a.watch == w {
				a.watch = nil
			}
		}); err != nil && !errors.Is(err, errClosed) {
			return err
		}
		return w.wait(ctx)
	}
	if answer == nil {
		return nil, errClosed // a process that was told to end
	}
	if answer.failures > 0 {
		// The Collector's own log is held back until it has started.
		console.Logger().Warn("Pausing before this start: the last ones failed", zap.Int("failures", answer.failures),
			zap.Duration("pause", pauseTime(answer.failures)), zap.String("reason", answer.reason), zap.String("next", answer.rung))
		if err := p.pause(ctx, answer.failures); err != nil {
			return nil, errors.Join(err, done(ctx))
		}
	}
	return &Retrieved{Conf: answer.conf, NoPipelines: !answer.remote || a.safe, Done: done}, nil
}

// pause waits before a start that follows failed ones; being told to end ends
// it, since the Collector does not listen yet.
func (p *ProviderLease) pause(ctx context.Context, failures int) error {
	a := p.agent
	if err := a.call(ctx, func() {
		a.pausing = true
		// Nothing has started yet: a process that dies in the pause has not failed to.
		r := a.machine.Record()
		r.Ladder.Starting = false
		_ = a.persist(rollout.Persist{Record: r}) // a failure is tried again
	}); err != nil {
		return err
	}
	err := pause(ctx, failures)
	return errors.Join(err, a.call(ctx, func() {
		a.pausing = false
		_ = a.persist(rollout.Persist{Record: a.machine.Record()})
	}))
}

// Release tells the agent that the process ends, and gives the lease back. It
// may be called more than once.
func (p *ProviderLease) Release(ctx context.Context) error {
	p.once.Do(func() {
		a := p.agent
		fatal := false
		p.err = a.call(ctx, func() {
			a.watch, a.released, fatal = nil, true, a.fatal != "" || a.restarts == restartOrdered
			if told := a.told; told != nil {
				// What hangs while it stops must not keep the process for ever.
				time.AfterFunc(a.settings.Rollout.DrainTimeout, func() { process.Die(told) })
			}
			a.step(a.stopping())
			a.saveLast()
			a.endsByItself()
		})
		if p.err != nil || !fatal { // with an error, fatal may still be written; after a FatalError the end may take a while, and be no end
			p.unwatch()
		}
		p.err = errors.Join(p.err, release(ctx, a))
	})
	return p.err
}

// endsByItself sees to it that a Collector that ends because of a FatalError, or for
// a restart, does so although it may hang or panic while it stops: its successor,
// or the exit code, is what its end is for.
func (a *Agent) endsByItself() {
	if a.restarts == restartOrdered {
		a.fatal = restartReason
	}
	if a.fatal == "" || a.told != nil {
		return
	}
	e := &ended{signals: a.signals, reason: a.fatal, replace: a.restarts == restartOrdered || a.machine.State() == rollout.RollingBack}
	registry.mu.Lock()
	registry.fatal = e
	registry.mu.Unlock()
	time.AfterFunc(a.settings.Rollout.DrainTimeout, e.end)
}

// toldToStop sees to it that the process ends when it is told to. The Collector
// does not listen before its first configuration has started, and not while a
// component hangs in a reload. Ending is no verdict on a candidate.
func (a *Agent) toldToStop(s os.Signal) {
	if a.told != nil {
		return
	}
	a.told = s
	if a.released { // it ends because of a FatalError, and may hang
		time.AfterFunc(stopGrace, func() { process.Die(s) })
		return
	}
	grace := stopGrace
	switch {
	case a.pausing, a.extension != nil && a.started.IsZero():
		grace = 0 // the first configuration is still starting
	case a.extension == nil && a.instance == 0:
		// Either that, or no extension belongs to this agent; then the
		// Collector takes the signal at once.
		grace = startGrace
	}
	a.remind(time.Now().Add(grace))
}

// stopping says whether the process may have been told to end because it does
// not come up.
func (a *Agent) stopping() rollout.Stopping {
	return rollout.Stopping{NotComingUp: !a.ready && time.Since(a.retrieved) > slowStart}
}

// remind sends the signal again until the Collector takes it: it may have come
// when nobody but the agent listened. At the deadline the process ends anyway.
func (a *Agent) remind(deadline time.Time) {
	if a.released {
		return
	}
	if !time.Now().Before(deadline) {
		a.log.Load().Warn("Ending: the Collector does not listen to signals now", zap.Stringer("signal", a.told))
		a.step(a.stopping())
		a.saveLast()
		process.Die(a.told)
	}
	a.after(remindAfter, func() {
		if self, err := os.FindProcess(os.Getpid()); err == nil && !a.released {
			_ = self.Signal(a.told) // where it cannot be sent, the deadline remains
		}
		a.remind(deadline)
	})
}

// Peek returns what a process that does not take part must be given, such as
// validate and print-config beside the live process: the candidate that
// [preflight.Env] names, if the process is the dry run, else what runs. It
// takes no lock and writes nothing.
func Peek(name, stateDir string, purpose process.Purpose) (Peeked, error) {
	c, err := peek(name, stateDir, purpose)
	return Peeked{Conf: c.conf, NoPipelines: !c.remote}, err
}

// Peeked is the answer to [Peek]; as in [Retrieved].
type Peeked struct {
	Conf        map[string]any
	NoPipelines bool
}

func peek(name, stateDir string, purpose process.Purpose) (composed, error) {
	nothing := composed{conf: map[string]any{}}
	if Supervised(name, os.Args[1:]) {
		return nothing, nil
	}
	path, err := statedir.Locate(stateDir, name)
	if err != nil {
		return composed{}, err
	}
	dir, err := statedir.OpenReadOnly(path)
	_, ofAgent := os.LookupEnv(preflight.Env)
	if errors.Is(err, fs.ErrNotExist) || err != nil && purpose == process.PurposeDryRun && ofAgent {
		// The live process runs without a folder that it cannot use.
		return nothing, nil
	}
	if err != nil {
		return composed{}, err
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	s := &store{dir}
	ref, err := s.peekRef(name, purpose)
	if err != nil {
		return composed{}, err
	}
	return compose(s, s.body, ref, name, os.Args[1:], s.required())
}

// peekRef returns what a process that does not take part is given.
func (s *store) peekRef(name string, purpose process.Purpose) (remoteconfig.Ref, error) {
	if candidate := os.Getenv(preflight.Env); candidate != "" && purpose == process.PurposeDryRun {
		if c := preflight.ParseCandidate(candidate); c.Name == name {
			if c.Digest == preflight.None {
				c.Digest = ""
			}
			return remoteconfig.Ref{Digest: c.Digest, Values: c.Values}, nil
		}
	}
	record, _, err := s.loadReadOnly() // the live process says what is lost
	return record.Serves(!canBeSafe(s, os.Args[1:])), err
}
