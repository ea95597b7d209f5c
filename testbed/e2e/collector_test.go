//go:build unix

package e2e_test

import (
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

// raceExitCode is that of a process that had a data race, unless it failed.
const raceExitCode = 66

// Lines of the Collector's log.
const (
	logReload        = "Config updated, restart service"
	logPartialReload = "Partial receiver reload completed"
	logChecking      = `"to": "checking"`      // an offer is taken up
	logReplacing     = "Replacing the process" // between the hook and the execve
	logReplaced      = "This process replaces its former self"
	logDropped       = "Custom messages of the OpAMP server were dropped"
	logFaultExporter = "Discarded data" // at its Shutdown
	logDataRace      = "DATA RACE"
	logPanic         = "panic:"
	logFatalError    = "fatal error:" // of the Go runtime
)

// collector is a process under test.
type collector struct {
	*otelcol.Process
	w       *world
	started time.Time
	ended   bool
}

// start runs a Collector. It is stopped at the end of the test, if the test does
// not do it: see stop for what must be true then.
func (w *world) start(args []string, env ...string) *collector {
	w.t.Helper()
	path, err := binary()
	require.NoError(w.t, err)
	return w.startBinary(path, args, env...)
}

// startBinary is start for a program that becomes the Collector.
func (w *world) startBinary(path string, args []string, env ...string) *collector {
	w.t.Helper()
	c := &collector{w: w, started: time.Now()}
	var err error
	c.Process, err = otelcol.Start(otelcol.Settings{Binary: path, Args: args, Env: env})
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		c.stop()
		if w.t.Failed() {
			w.t.Logf("the log of process %d:\n%s", c.PID(), c.tail())
		}
	})
	return c
}

// resource is what the Collector repeats in every line of its log.
var resource = regexp.MustCompile(`"resource": \{[^}]*\}(, )?`)

// tail is the end of the log, as far as it is readable.
func (c *collector) tail() string {
	const most = 64 << 10
	log := resource.ReplaceAllString(c.Log(), "")
	if len(log) > most {
		log = "…" + log[len(log)-most:]
	}
	return log
}

// stop ends the process as a service manager does, and checks that it ends in
// order, leaves nothing behind and has not logged what must never be logged.
func (c *collector) stop() {
	c.w.t.Helper()
	if c.ended {
		return
	}
	select {
	case <-c.Exited():
		assert.Fail(c.w.t, "the process ended by itself")
	default:
	}
	assert.Zero(c.w.t, c.terminate(), "exit code after SIGTERM")
}

// terminate is stop for a process that need not end in order. It returns the exit
// code.
func (c *collector) terminate() int {
	c.w.t.Helper()
	c.ended = true
	require.NoError(c.w.t, c.Stop(cleanupContext(c.w.t)))
	code, err := c.Wait(cleanupContext(c.w.t))
	require.NoError(c.w.t, err)
	c.checkRemains()
	if slow() && code == raceExitCode {
		return 0 // races are read from the log
	}
	return code
}

// kill ends the process without giving it a chance, and checks what that leaves.
func (c *collector) kill() {
	c.w.t.Helper()
	c.ended = true
	require.NoError(c.w.t, c.Kill())
	_, err := c.Wait(patiently(c.w.t))
	require.NoError(c.w.t, err)
	c.checkRemains()
}

// checkRemains checks what an ended process has left.
func (c *collector) checkRemains() {
	c.w.t.Helper()
	// What the kernel was told to end with the process may take a moment.
	var left []int
	gone := func() bool {
		var err error
		left, err = c.Leftovers()
		return errors.Is(err, errors.ErrUnsupported) || err == nil && len(left) == 0
	}
	if !assert.Eventually(c.w.t, gone, quiet, 10*time.Millisecond) {
		assert.Empty(c.w.t, left, "processes that outlived the Collector")
		require.NoError(c.w.t, c.KillAll())
	}
	for _, report := range races(c.Lines()) {
		assert.Fail(c.w.t, "data race", report)
	}
	for _, line := range c.Lines() {
		for _, bad := range []string{logPanic, logFatalError} {
			assert.Falsef(c.w.t, strings.HasPrefix(line.Text, bad), "the log contains %q", line.Text)
		}
		for _, secret := range c.w.secrets {
			assert.NotContains(c.w.t, line.Text, secret, "a secret in the log")
		}
	}
}

// races returns the reports of the race detector.
func races(lines []otelcol.Line) []string {
	const (
		fence = "=================="
		// The Collector sets the logger of gRPC anew with each service it starts,
		// without regard to connections of the former one that are still ending.
		// That is a race of its own, with or without this project.
		known = "google.golang.org/grpc/grpclog.SetLoggerV2()"
	)
	var reports []string
	var report []string // nil outside of one
	for _, line := range lines {
		switch {
		case strings.Contains(line.Text, logDataRace):
			report = []string{line.Text}
		case report != nil && line.Text == fence:
			if text := strings.Join(report, "\n"); !strings.Contains(text, known) {
				reports = append(reports, text)
			}
			report = nil
		case report != nil:
			report = append(report, line.Text)
		}
	}
	if report != nil { // the process ended before the report did
		reports = append(reports, strings.Join(report, "\n"))
	}
	return reports
}

// requireAlive checks that the process has not ended.
func (c *collector) requireAlive() {
	c.w.t.Helper()
	select {
	case <-c.Exited():
		require.Fail(c.w.t, "the process ended", c.tail())
	default:
	}
}

// requireNoChildren waits until the process has no child left, not even one that
// it failed to reap.
func (c *collector) requireNoChildren() {
	c.w.t.Helper()
	var children []int
	eventually(c.w.t, func() bool {
		var err error
		children, err = c.Children()
		return errors.Is(err, errors.ErrUnsupported) || err == nil && len(children) == 0
	}, "children must end, and be reaped")
}

// usage is what a process holds.
type usage struct {
	descriptors, threads int
	memory               int64 // resident, in bytes
}

// usage reads what the process holds. It skips the test where that cannot be read.
func (c *collector) usage() usage {
	c.w.t.Helper()
	descriptors, err := c.FDs()
	if errors.Is(err, errors.ErrUnsupported) {
		c.w.t.Skip("the descriptors of a process cannot be counted on this system")
	}
	require.NoError(c.w.t, err)
	threads, err := c.Threads()
	require.NoError(c.w.t, err)
	memory, err := c.RSS()
	require.NoError(c.w.t, err)
	return usage{descriptors, threads, memory}
}

// goroutines returns how many goroutines a process has that serves its profiles.
func (w *world) goroutines(profiles string) int {
	w.t.Helper()
	n, err := otelcol.GoroutineCount(patiently(w.t), "http://"+profiles)
	require.NoError(w.t, err)
	return n
}

// count returns how many lines of the log contain the text.
func (c *collector) count(text string) int {
	n := 0
	for _, line := range c.Lines() {
		if strings.Contains(line.Text, text) {
			n++
		}
	}
	return n
}

// endedWithin reports whether the process ends by itself within a time, and with
// which code.
func (c *collector) endedWithin(d time.Duration) (code int, ended bool) {
	c.w.t.Helper()
	select {
	case <-c.Exited():
		code, err := c.Wait(patiently(c.w.t))
		require.NoError(c.w.t, err)
		return code, true
	case <-time.After(d):
		return 0, false
	}
}
