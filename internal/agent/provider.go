package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
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
		path, err := statedir.Locate(stateDir, name)
		if err != nil {
			return nil, err
		}
		dir, err := statedir.Open(path)
		if _, ok := errors.AsType[*statedir.LockedError](err); ok {
			return nil, err
		}
		if err != nil {
			log.Error("No remote configuration will be accepted and none that was is known: the state folder cannot be used",
				zap.String("folder", path), zap.Error(err))
		}
		process.IgnoreHangup()
		return newAgent(name, dir, err, log), nil
	})
	if err != nil {
		return nil, err
	}
	p := &ProviderLease{agent: a}
	p.unwatch = process.WatchStop(func(s os.Signal) { a.queue.post(func() { a.toldToStop(s) }) })
	err = a.call(ctx, func() {
		a.provider = p
		a.log.Store(log)
		a.after(pairTimeout, func() {
			if a.provider == p && a.extension == nil && a.instance == 0 {
				log.Warn("The configuration has an opamp: URI and no extension of the same name is running: nothing is managed",
					zap.String("name", name))
			}
		})
	})
	if err != nil {
		return nil, errors.Join(err, p.Release(ctx))
	}
	return p, nil
}

// Retrieve returns the remote configuration that is to run; an empty map if
// there is none. The caller owns the map's top level but must not modify
// anything below it. Changed is called at most once, from a goroutine, when
// another one is to run; not after done has returned.
func (p *ProviderLease) Retrieve(ctx context.Context, partial bool, changed func()) (conf map[string]any, done func(context.Context) error, err error) {
	a := p.agent
	w := &watch{notify: changed}
	var answer *served
	if err := a.call(ctx, func() {
		a.serving = nil
		a.step(rollout.Retrieve{Partial: partial})
		answer = a.serving
		a.watch = w
	}); err != nil {
		return nil, nil, fmt.Errorf("retrieving the remote configuration: %w", err)
	}
	done = func(ctx context.Context) error {
		if err := a.call(ctx, func() {
			if a.watch == w {
				a.watch = nil
			}
		}); err != nil && !errors.Is(err, errClosed) {
			return err
		}
		return w.wait(ctx)
	}
	return answer.conf, done, nil
}

// Release tells the agent that the process ends, and gives the lease back. It
// may be called more than once.
func (p *ProviderLease) Release(ctx context.Context) error {
	p.once.Do(func() {
		a := p.agent
		p.err = a.call(ctx, func() {
			a.watch, a.released = nil, true
			a.step(rollout.Stopping{})
		})
		p.unwatch()
		p.err = errors.Join(p.err, release(ctx, a))
	})
	return p.err
}

// toldToStop sees to it that the process ends when it is told to. The Collector
// does not listen before its first configuration has started, and not while a
// component hangs in a reload. Ending is no verdict on a candidate.
func (a *Agent) toldToStop(s os.Signal) {
	die := func() {
		if a.released {
			return
		}
		a.log.Load().Warn("Ending: the Collector does not listen to signals now", zap.Stringer("signal", s))
		a.step(rollout.Stopping{})
		process.Die(s)
	}
	if a.extension != nil && a.started.IsZero() {
		die() // the first configuration is still starting
		return
	}
	a.after(stopGrace, die)
}

// Peek returns what a process that does not take part must be given, such as
// validate and print-config beside the live process: the candidate that
// [preflight.Env] names, if the process is the dry run, else what runs. It
// takes no lock and writes nothing.
func Peek(name, stateDir string, purpose process.Purpose) (map[string]any, error) {
	path, err := statedir.Locate(stateDir, name)
	if err != nil {
		return nil, err
	}
	dir, err := statedir.OpenReadOnly(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]any{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	s := &store{dir}
	digest, err := s.peekDigest(name, purpose)
	if err != nil || digest == "" {
		return map[string]any{}, err
	}
	offer, err := s.body(digest)
	if err != nil {
		return nil, err
	}
	conf, err := offer.Parse()
	if err != nil {
		return nil, err
	}
	if conf, err = acceptable(conf, ownID(name)); err != nil {
		return nil, err
	}
	return keepExtensions(conf, keptExtensions(name, os.Args[1:], s.required())), nil
}

func (s *store) peekDigest(name string, purpose process.Purpose) (string, error) {
	if candidate := os.Getenv(preflight.Env); candidate != "" && purpose == process.PurposeDryRun {
		if digest, of := preflight.ParseCandidate(candidate); of == name {
			return digest, nil
		}
	}
	record, err := s.loadReadOnly()
	return record.Serves().Digest, err
}
