//go:build unix

package guard

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/console"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

const (
	// collectPercent is the growth of the heap at which it is collected. The
	// guard makes no garbage but a line of log now and then, so that frequent
	// collection costs nothing.
	collectPercent = 10
	// signalRoom is how many signals wait while a child is being started, which
	// takes milliseconds; more than anybody sends in that time.
	signalRoom = 64
	// shellOffset is what a shell adds to the number of the signal that ended a
	// process.
	shellOffset = 128
	// notStarted is the status of a child that there was not: exit code 1.
	notStarted = syscall.WaitStatus(1 << 8)
)

// guard is the state of the loop. It belongs to one goroutine, which is locked to
// its thread.
type guard struct {
	log      *zap.Logger
	args     []string
	signals  chan os.Signal   // to be forwarded
	children <-chan os.Signal // SIGCHLD
	restarts restarts
}

// become does not return.
func become() { newGuard().run() }

// newGuard turns the process into a guard that has not started a child.
func newGuard() *guard {
	active.Store(true)
	runtime.LockOSThread() // the child's death signal is tied to the thread that forks
	children := make(chan os.Signal, 1)
	g := &guard{log: console.Logger(), args: os.Args[1:], signals: make(chan os.Signal, signalRoom), children: children, restarts: newRestarts()}
	g.listen()
	signal.Notify(children, syscall.SIGCHLD)
	former, _ := process.FromFormer()
	for name := range former.Files {
		_ = former.File(name).Close() // a lock, which the child will take; there is nothing to write
	}
	keepToOneself()
	if former.Args != nil {
		g.args = former.Args
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(collectPercent)
	debug.FreeOSMemory()
	releasePages()
	return g
}

func (g *guard) listen() {
	signal.Notify(g.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
}

// keepToOneself keeps descriptors that somebody left to this process, beside
// stdin, stdout and stderr, from the child.
func keepToOneself() {
	open, _ := filepath.Glob("/dev/fd/*") // where there is none, the child inherits what a Collector does
	for _, path := range open {
		if fd, err := strconv.Atoi(filepath.Base(path)); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// run starts children until one has ended for good, and ends the process the
// same way.
func (g *guard) run() {
	for {
		status, lived, told, err := g.live()
		how := describe(status)
		switch {
		case err != nil:
			how, status = fmt.Sprintf("starting it: %v", err), notStarted
		case told:
			g.log.Info("Guard: the Collector has ended as it was told to", zap.String("status", how))
			end(status)
		case status.Exited() && status.ExitStatus() == 0:
			g.log.Info("Guard: the Collector has ended by itself")
			end(status)
		}
		pause, giveUp := g.restarts.died(lived)
		if giveUp {
			g.log.Error("Guard: giving up, the Collector ends soon after each start", zap.String("status", how), zap.Int("starts", maxDeaths))
			end(status)
		}
		g.log.Warn("Guard: the Collector died and is started again", zap.String("status", how),
			zap.Duration("lived", lived.Round(time.Millisecond)), zap.Duration("pause", pause))
		g.wait(pause)
	}
}

// live starts a child and waits for its end. Told says that the guard was told to
// end meanwhile.
func (g *guard) live() (status syscall.WaitStatus, lived time.Duration, told bool, err error) {
	pid, err := g.start()
	if err != nil {
		return 0, 0, false, err
	}
	started := time.Now()
	g.log.Info("Guard: started the Collector", zap.Int("pid", pid))
	for {
		select {
		case s := <-g.signals:
			told = told || stops(s)
			_ = syscall.Kill(pid, s.(syscall.Signal)) // not reaped yet, so that it is the child or was
		case <-g.children:
			if ended, status := reap(pid); ended {
				// What the child's components had started must not meet their
				// successors.
				_ = syscall.Kill(-pid, syscall.SIGKILL) // there may be nothing left
				return status, time.Since(started), told || g.toldToStop(), nil
			}
		}
	}
}

// start starts a child and returns its PID. It is not an [os.Process], which
// would want to reap it.
func (g *guard) start() (pid int, err error) {
	path, err := process.Executable()
	if err != nil {
		return 0, err
	}
	marker := Env + "="
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, marker) })
	// A child that ignores SIGHUP does not die of one before it listens. One
	// that comes in between is lost, but that child reads everything anyway.
	signal.Ignore(syscall.SIGHUP)
	attributes := &syscall.ProcAttr{
		Env:   append(env, marker+strconv.Itoa(os.Getpid())),
		Files: []uintptr{0, 1, 2},
		Sys:   childAttributes(),
	}
	pid, err = syscall.ForkExec(path, append([]string{os.Args[0]}, g.args...), attributes) //nolint:gosec // our own executable and arguments
	g.listen()
	return pid, err
}

// wait lets a pause pass, and ends the process if it is told to end meanwhile.
func (g *guard) wait(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case s := <-g.signals:
			g.endIfStopped(s)
		case <-g.children:
			reap(0)
		case <-timer.C:
			for {
				select {
				case s := <-g.signals:
					g.endIfStopped(s)
				default:
					return
				}
			}
		}
	}
}

// endIfStopped ends the process between two children. Other signals are for a
// child that does not exist.
func (g *guard) endIfStopped(s os.Signal) {
	if stops(s) {
		g.log.Info("Guard: told to end while no Collector was running", zap.Stringer("signal", s))
		die(s.(syscall.Signal))
	}
}

// toldToStop reports whether the signals that have arrived tell the guard to end.
func (g *guard) toldToStop() bool {
	for {
		select {
		case s := <-g.signals:
			if stops(s) {
				return true
			}
		default:
			return false
		}
	}
}

func stops(s os.Signal) bool { return s == syscall.SIGTERM || s == syscall.SIGINT }

// reap reaps every child that has ended, the orphans that a process 1 is given
// among them, and says whether the one with the given PID was one of them.
func reap(pid int) (ended bool, status syscall.WaitStatus) {
	for {
		var s syscall.WaitStatus
		switch reaped, err := syscall.Wait4(-1, &s, syscall.WNOHANG, nil); {
		case errors.Is(err, syscall.EINTR):
		case err != nil || reaped <= 0:
			return ended, status
		case reaped == pid:
			ended, status = true, s
		}
	}
}

// end ends the process as a child has ended. It does not return.
func end(status syscall.WaitStatus) {
	if status.Signaled() {
		die(status.Signal())
	}
	os.Exit(status.ExitStatus()) //nolint:forbidigo // this is the end of the process
}

// die ends the process by a signal, or as a shell shows that: process 1 is immune
// to signals of its own, and of those that Go answers with a dump of stacks one
// dump, the child's, is enough.
func die(s syscall.Signal) {
	if (s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP || s == syscall.SIGKILL) && os.Getpid() != 1 {
		process.Die(s)
	}
	os.Exit(shellOffset + int(s)) //nolint:forbidigo // this is the end of the process
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}
