package agent

import (
	"context"
	"fmt"
	"time"
)

// abandonWatch is how long Close waits for the host to take a notification. It
// takes it at once, unless it is ending and its one slot still holds an earlier
// notification; then it never will.
const abandonWatch = time.Second

// watch notifies the host of a change, at most once. Its methods but the
// goroutine's run on the agent's goroutine.
type watch struct {
	notify func()
	done   chan struct{} // nil until fired
}

// fire notifies the host. The host's watcher blocks while its slot is full, so
// it is called by a goroutine of its own, for which closed waits.
func (w *watch) fire() {
	if w.done != nil {
		return
	}
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		// A host that ends while its slot is full closes the channel under
		// the blocked send. There is nobody left to notify.
		defer func() { _ = recover() }()
		w.notify()
	}()
}

// wait returns when no notification can follow any more.
func (w *watch) wait(ctx context.Context) error {
	if w.done == nil {
		return nil
	}
	timeout := time.NewTimer(abandonWatch)
	defer timeout.Stop()
	select {
	case <-w.done:
		return nil
	case <-timeout.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the host to take a notification: %w", ctx.Err())
	}
}
