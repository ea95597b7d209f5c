package opampextension

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// parentWatch ends the Collector when the process `ppid` has ended. It is made
// by Start and ended by Shutdown.
type parentWatch struct {
	pid      int
	parent   *process.Parent
	interval time.Duration
	// grace is how long the Collector may take to end.
	grace time.Duration
	log   *zap.Logger
	host  component.Host
	// ready is closed when the Collector has started.
	ready  <-chan struct{}
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// watchParent begins to watch. It returns nil if there is nothing to be watched.
func (e *opampExtension) watchParent(host component.Host) *parentWatch {
	if e.cfg.PPID == 0 {
		return nil
	}
	pid := int(e.cfg.PPID)
	parent, err := process.FindParent(pid)
	if err != nil {
		e.set.Logger.Warn("The end of the process `ppid` will not be noticed", zap.Int("ppid", pid), zap.Error(err))
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &parentWatch{
		pid: pid, parent: parent, interval: e.cfg.PPIDPollInterval, grace: e.cfg.Rollout.DrainTimeout,
		log: e.set.Logger, host: host, ready: e.ready, cancel: cancel,
	}
	w.work.Go(func() { w.run(ctx) })
	return w
}

// stop ends the watch.
func (w *parentWatch) stop() {
	if w == nil {
		return
	}
	w.cancel()
	w.work.Wait()
	w.parent.Close()
}

func (w *parentWatch) run(ctx context.Context) {
	look := time.NewTicker(w.interval)
	defer look.Stop()
	for !w.parent.Gone() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
	w.log.Error("This process is an orphan and ends: the process `ppid` has ended", zap.Int("ppid", w.pid))
	// An orphan that does not end holds ports which its successor needs.
	deadline := time.AfterFunc(w.grace, func() {
		w.log.Error("The Collector does not end in order", zap.Duration("after", w.grace))
		process.Die(syscall.SIGTERM)
	})
	defer deadline.Stop()
	// Before, a signal would not be heard and a FatalError leaves the host
	// deadlocked (core issue 12495).
	select {
	case <-w.ready:
	case <-ctx.Done():
		return
	}
	// Not a FatalError where there is another way: it deadlocks a reload, too.
	if err := process.TellToEnd(ctx); errors.Is(err, process.ErrNotTold) {
		err = fmt.Errorf("collector was orphaned, process with pid %d does not exist", w.pid)
		componentstatus.ReportStatus(w.host, componentstatus.NewFatalErrorEvent(err))
	} else if err != nil {
		w.log.Error("Ending the Collector", zap.Error(err))
	}
	<-ctx.Done()
}
