package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
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
