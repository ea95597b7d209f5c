// Package fault is what the fault receiver, exporter and extension
// share: a Collector component that works until its configuration or a control
// file tells it to fail.
//
// A [Component] is driven by the Collector like any other; its actions run in
// goroutines of its own, which Shutdown waits for. Hangs and leaks are kept by
// the package until the process ends: that is what they are for. Unit tests end
// them with [ReleaseHangs].
package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"
)

const (
	// ExitCode is the exit code of the action `exit`: one that neither the
	// Collector (1) nor the Go runtime (2) uses.
	ExitCode = 3

	// pollInterval is short against any reaction that a test waits for.
	pollInterval = 10 * time.Millisecond
)

// Component fails on demand. Create it with [New].
type Component struct {
	cfg    *Config
	name   string // kind and ID, for texts
	logger *zap.Logger

	host    component.Host
	release func() error // gives the listener back, nil without one
	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ component.Component = (*Component)(nil)

// New creates a component, unless cfg wants the creation to fail, panic or hang.
// The kind, for example "receiver", appears in texts. The component keeps cfg,
// which must not change.
func New(kind string, id component.ID, logger *zap.Logger, cfg *Config) (*Component, error) {
	c := &Component{cfg: cfg, name: fmt.Sprintf("%s %q", kind, id), logger: logger}
	if cfg.LeakCreate {
		leak(cfg.LeakBytes)
	}
	if cfg.HangCreate {
		join().hang()
	}
	if cfg.PanicCreate {
		panic(c.text("panic_create"))
	}
	if cfg.FailCreate {
		return nil, c.fault("fail_create")
	}
	return c, nil
}

// Start implements component.Component.
func (c *Component) Start(ctx context.Context, host component.Host) error {
	c.host = host
	if c.cfg.HangStart {
		join().hang()
	}
	if c.cfg.PanicStart {
		panic(c.text("panic_start"))
	}
	if c.cfg.FailStart {
		return c.fault("fail_start")
	}
	if c.cfg.Listen != "" {
		release, err := acquireListener(ctx, c.cfg)
		if err != nil {
			return fmt.Errorf("starting %s: %w", c.name, err)
		}
		c.release = release
	}
	if c.cfg.InStart != "" {
		c.do(c.cfg.InStart)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // ctx ends with Start
	c.stop = stop
	if c.cfg.Then != "" {
		c.running.Go(func() { c.later(running) })
	}
	if c.cfg.Control != "" {
		// Read here, not in the goroutine: a command that is written after Start has
		// returned must not be taken for the initial content.
		initial := readControl(c.cfg.Control)
		c.running.Go(func() { c.obey(running, initial) })
	}
	return nil
}

// Shutdown implements component.Component. It may be called without Start, or
// after a Start that failed.
func (c *Component) Shutdown(ctx context.Context) error {
	var errs []error
	if c.stop != nil {
		c.stop()
		errs = append(errs, c.wait(ctx))
	}
	if c.release != nil {
		errs = append(errs, c.release())
		c.release = nil
	}
	if c.cfg.HangShutdown {
		join().hang()
	}
	if c.cfg.FailShutdown {
		errs = append(errs, c.fault("fail_shutdown"))
	}
	return errors.Join(errs...)
}

// wait ends with ctx: an action may be stuck in the host's status reporting.
func (c *Component) wait(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		c.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for actions of %s: %w", c.name, context.Cause(ctx))
	}
}

// later executes Then.
func (c *Component) later(ctx context.Context) {
	timer := time.NewTimer(c.cfg.After)
	defer timer.Stop()
	select {
	case <-timer.C:
		c.do(c.cfg.Then)
	case <-ctx.Done():
	}
}

// obey executes what is written to the control file.
func (c *Component) obey(ctx context.Context, last string) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		command := readControl(c.cfg.Control)
		if command == last {
			continue
		}
		last = command
		word, _, _ := strings.Cut(command, " ")
		if err := validateAction("control", Action(word)); err != nil {
			c.logger.Error("Ignoring command", zap.Error(err))
			continue
		}
		if word != "" {
			c.do(Action(word))
		}
	}
}

// readControl returns the content of the control file. One that cannot be read
// commands nothing: it is usually not there yet.
func readControl(path string) string {
	content, err := os.ReadFile(path) //nolint:gosec // the path is the setting
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

// do executes an action:
//
//   - ok, recoverable_error, permanent_error, fatal_error report that status
//   - panic panics, which outside of in_start kills the process
//   - exit ends the process at once with ExitCode
//   - segv accesses memory that is not there, which nothing can recover from
//   - leak takes memory and goroutines and never gives them back
func (c *Component) do(a Action) {
	c.logger.Info("Executing action", zap.String("action", string(a)))
	switch a {
	case OK:
		c.report(componentstatus.NewEvent(componentstatus.StatusOK))
	case RecoverableError:
		c.report(componentstatus.NewRecoverableErrorEvent(c.fault(string(a))))
	case PermanentError:
		c.report(componentstatus.NewPermanentErrorEvent(c.fault(string(a))))
	case FatalError:
		c.report(componentstatus.NewFatalErrorEvent(c.fault(string(a))))
	case Panic:
		panic(c.text(string(a)))
	case Exit:
		os.Exit(ExitCode) //nolint:forbidigo // the feature
	case Segv:
		segv()
	case Leak:
		leak(c.cfg.LeakBytes)
	}
}

func (c *Component) report(event *componentstatus.Event) {
	componentstatus.ReportStatus(c.host, event)
}

// fault is the error for a setting.
func (c *Component) fault(setting string) error { return errors.New(c.text(setting)) }

// text is Message, or names the component and the setting.
func (c *Component) text(setting string) string {
	if c.cfg.Message != "" {
		return c.cfg.Message
	}
	return fmt.Sprintf("%s fails on demand (%s)", c.name, setting)
}
