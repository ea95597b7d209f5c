package guard

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

const (
	envPlay  = "GUARD_TEST_PLAY"
	waitTime = 30 * time.Second // only a failing test takes this long
)

// TestMain lets the test binary play a guard and its child.
func TestMain(m *testing.M) {
	if os.Getenv(envPlay) != "" {
		play(os.Args[1], os.Args[2])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// report is what a child says, one line each.
type report struct {
	PID, Parent int
	Child       bool   `json:",omitempty"`
	Signal      string `json:",omitempty"`
	Other       int    `json:",omitempty"` // a process that it has started
	Open        []int  `json:",omitempty"` // descriptors beside the first three
}

func say(r report) {
	r.PID, r.Parent, r.Child = os.Getpid(), os.Getppid(), Child()
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// play is the program that is guarded. The file at path is there after its first
// life.
func play(part, path string) {
	if !Child() {
		switch part {
		case "who": // a grandchild
			say(report{})
			return
		case "pausing":
			g := newGuard()
			g.restarts = restarts{settled: true, next: time.Hour}
			g.run()
		case "orphan":
			_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		}
	}
	var open []int
	for fd := 3; fd < 20; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	Become()
	signals := make(chan os.Signal, 10)
	if part != "deaf" {
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	}
	_, err := os.Stat(path)
	first := err != nil
	_ = os.WriteFile(path, nil, 0o600)
	r := report{Open: open}
	switch part {
	case "exit": // path is the code
		say(r)
		code, _ := strconv.Atoi(path)
		os.Exit(code)
	case "kill", "pausing":
		say(r)
		die(syscall.SIGKILL)
	case "die once":
		if first {
			r.Other = sleep()
			say(r)
			die(syscall.SIGKILL)
		}
	case "orphan":
		out, _ := exec.Command("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").Output() //nolint:noctx // it ends at once
		r.Other, _ = strconv.Atoi(strings.TrimSpace(string(out)))
	case "family":
		cmd := exec.Command(os.Args[0], "who", path) //nolint:noctx // it ends at once
		cmd.Stdout = os.Stdout
		_ = cmd.Run()
	case "orphaned":
		if first {
			say(r)
			<-signals // the guard has died
			reexecuteElsewhere()
		}
	case "re-execute":
		if first {
			say(r)
			reexecuteElsewhere()
		}
	}
	say(r)
	for s := range signals {
		say(report{Signal: s.String()})
		if s == syscall.SIGTERM || s == syscall.SIGINT {
			os.Exit(7)
		}
	}
}

func sleep() int {
	cmd := exec.Command("sleep", "600") //nolint:noctx // it is to outlive its parent
	_ = cmd.Start()
	return cmd.Process.Pid
}

// reexecuteElsewhere replaces the process from a thread that is not the first.
func reexecuteElsewhere() {
	runtime.LockOSThread()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		failed <- process.Reexec(process.Successor{Reason: "because"})
	}()
	panic(<-failed)
}

// played is a guard that runs a part.
type played struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
	log *strings.Builder
}

func start(t *testing.T, part string, files ...*os.File) *played {
	t.Helper()
	return startWith(t, part, filepath.Join(t.TempDir(), "lived"), files...)
}

func startWith(t *testing.T, part, path string, files ...*os.File) *played {
	t.Helper()
	p := &played{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0], part, path), log: &strings.Builder{}}
	p.cmd.Env = append(os.Environ(), envPlay+"=1")
	p.cmd.Stderr, p.cmd.ExtraFiles = p.log, files
	p.cmd.WaitDelay = time.Second // what outlives the guard may hold its stderr
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.out = bufio.NewScanner(out)
	require.NoError(t, out.(*os.File).SetReadDeadline(time.Now().Add(waitTime)))
	return p
}

func (p *played) next() report {
	p.t.Helper()
	require.True(p.t, p.out.Scan(), "a child must say something")
	var r report
	require.NoError(p.t, json.Unmarshal(p.out.Bytes(), &r), p.out.Text())
	return r
}

func (p *played) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// ends waits for the end and returns its status and how many more lines there
// were.
func (p *played) ends() (status syscall.WaitStatus, lines int) {
	p.t.Helper()
	for p.out.Scan() {
		lines++
	}
	_ = p.cmd.Wait() // see the status
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus), lines
}

func (p *played) starts() int { return strings.Count(p.log.String(), "Guard: started the Collector") }

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

func TestEndsAsTheChild(t *testing.T) {
	t.Parallel()
	t.Run("0 at once", func(t *testing.T) {
		t.Parallel()
		p := startWith(t, "exit", "0")
		status, starts := p.ends()
		assert.True(t, status.Exited())
		assert.Zero(t, status.ExitStatus())
		assert.Equal(t, 1, starts)
	})
	t.Run("a code that stays", func(t *testing.T) {
		t.Parallel()
		p := startWith(t, "exit", "3")
		status, starts := p.ends()
		assert.Equal(t, 3, status.ExitStatus())
		assert.Equal(t, maxDeaths, starts)
		assert.Contains(t, p.log.String(), `giving up, the Collector ends soon after each start	{"status": "exit code 3"`)
	})
	t.Run("a signal that stays", func(t *testing.T) {
		t.Parallel()
		p := start(t, "kill")
		status, starts := p.ends()
		assert.True(t, status.Signaled())
		assert.Equal(t, syscall.SIGKILL, status.Signal())
		assert.Equal(t, maxDeaths, starts)
	})
}

func TestADeadChildIsReplaced(t *testing.T) {
	t.Parallel()
	extra, err := os.Open(os.Args[0])
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, extra.Close()) })
	p := start(t, "die once", extra)
	first, second := p.next(), p.next()
	assert.Equal(t, p.cmd.Process.Pid, first.Parent)
	assert.Equal(t, p.cmd.Process.Pid, second.Parent)
	assert.NotEqual(t, first.PID, second.PID)
	assert.True(t, second.Child)
	assert.Empty(t, first.Open, "descriptors that somebody left to the guard")
	assert.Eventually(t, func() bool { return gone(first.Other) }, waitTime, time.Millisecond, "what the first had started")
	p.signal(syscall.SIGTERM)
	assert.Equal(t, "terminated", p.next().Signal)
	status, _ := p.ends()
	assert.Equal(t, 7, status.ExitStatus(), "nothing is restarted after SIGTERM")
	assert.Equal(t, 2, p.starts())
	assert.Contains(t, p.log.String(), `the Collector died and is started again	{"status": "signal: killed"`)
}

func TestForwardsSignals(t *testing.T) {
	t.Parallel()
	p := start(t, "wait")
	p.next()
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT} {
		p.signal(s)
		assert.Equal(t, s.String(), p.next().Signal)
	}
	status, _ := p.ends()
	assert.Equal(t, 7, status.ExitStatus(), "nothing is restarted after SIGINT")
	assert.Equal(t, 1, p.starts())
}

func TestHangupBeforeTheChildListensIsHarmless(t *testing.T) {
	t.Parallel()
	p := start(t, "deaf")
	p.next()
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	status, lines := p.ends()
	assert.Equal(t, syscall.SIGTERM, status.Signal(), "as the child, which does not listen")
	assert.Zero(t, lines)
	assert.Equal(t, 1, p.starts())
}

func TestStopBetweenTwoChildren(t *testing.T) {
	t.Parallel()
	p := start(t, "pausing")
	p.next()
	// The death of the child is logged before the pause; the signal may come
	// before or after that. A hangup must not end anything.
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	status, lines := p.ends()
	assert.Contains(t, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}, status.Signal())
	assert.Zero(t, lines)
	assert.Equal(t, 1, p.starts())
}

func TestOnlyTheChildIsTheChild(t *testing.T) {
	t.Parallel()
	p := start(t, "family")
	grandchild, child := p.next(), p.next()
	assert.Equal(t, child.PID, grandchild.Parent)
	assert.False(t, grandchild.Child, "it has the variable all the same")
	assert.True(t, child.Child)
	p.signal(syscall.SIGTERM)
	status, _ := p.ends()
	assert.Equal(t, 7, status.ExitStatus())
}

// The child that replaced itself is still the child, and still ends with its
// guard.
func TestTheChildEndsInOrderWithItsGuard(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"wait", "re-execute"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			p := start(t, part)
			r := p.next()
			if part == "re-execute" {
				former := r
				r = p.next()
				require.Equal(t, former.PID, r.PID)
			}
			assert.True(t, r.Child)
			p.signal(syscall.SIGKILL)
			assert.Equal(t, "terminated", p.next().Signal)
			p.ends()
			assert.Equal(t, 1, p.starts())
			assert.Eventually(t, func() bool { return gone(r.PID) }, waitTime, time.Millisecond)
		})
	}
}

// A child that replaces itself while its guard dies is nobody's child any more.
// It must not go on, and be no guard.
func TestTheChildThatLostItsGuardEnds(t *testing.T) {
	t.Parallel()
	p := start(t, "orphaned")
	child := p.next().PID
	p.signal(syscall.SIGKILL)
	_, lines := p.ends()
	assert.Zero(t, lines, "lives of the Collector after that")
	assert.Equal(t, 1, p.starts())
	assert.Eventually(t, func() bool { return gone(child) }, waitTime, time.Millisecond)
}

// A process 1 is the parent of every orphan. So is, for this purpose, a
// subreaper.
func TestReapsOrphans(t *testing.T) {
	t.Parallel()
	p := start(t, "orphan")
	orphan := p.next().Other
	require.NotZero(t, orphan)
	require.NoError(t, syscall.Kill(orphan, syscall.SIGKILL))
	assert.Eventually(t, func() bool { return gone(orphan) }, waitTime, time.Millisecond, "not even a zombie")
	p.signal(syscall.SIGTERM)
	assert.Equal(t, "terminated", p.next().Signal)
	status, _ := p.ends()
	assert.Equal(t, 7, status.ExitStatus())
}
