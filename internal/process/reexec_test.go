//go:build linux

package process_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

const envPlay = "PROCESS_TEST_PLAY"

// TestMain lets the test binary play a process that is replaced.
func TestMain(m *testing.M) {
	if part := os.Getenv(envPlay); part != "" {
		play(part)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// report is what a played process says of itself, one line each.
type report struct {
	PID      int
	Args     []string
	Former   bool
	Reason   string
	Kept     string
	Marker   bool
	Children int
	Again    bool // the file can be taken twice
	GOGC     string
	Percent  int
}

// told is what a played process was told to end with.
var told = make(chan os.Signal, 1)

func play(part string) {
	if playFamily(part) || playOne(part) {
		return
	}
	i, former := process.FromFormer()
	r := report{PID: os.Getpid(), Args: os.Args[1:], Former: former, Reason: i.Reason, Marker: strings.Contains(strings.Join(os.Environ(), " "), "OTELCOL_OPAMP_REEXEC")}
	if f := i.File("kept"); f != nil {
		content, err := io.ReadAll(f)
		if err != nil {
			content = []byte(err.Error())
		}
		r.Kept = string(content)
	}
	if former {
		r.GOGC = os.Getenv("GOGC")
		r.Percent = debug.SetGCPercent(100)
		r.Children = process.ChildCount()
		r.Again = i.File("kept") != nil
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
	if former {
		if part == "wait" { // for a signal that must end it, SIGHUP excepted
			select {}
		}
		return
	}
	kept, err := os.Open(os.Getenv("PROCESS_TEST_FILE"))
	if err != nil {
		panic(err)
	}
	if err := exec.Command("sleep", "600").Start(); err != nil { //nolint:noctx // it is to outlive this self
		panic(err)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGHUP)
	successor := process.Successor{Reason: "because", Keep: map[string]*os.File{"kept": kept}}
	if part == "told" {
		stop := process.WatchStop(func(s os.Signal) { told <- s })
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			panic(err)
		}
		successor.Told = func() os.Signal {
			stop()
			select {
			case s := <-told:
				return s
			default:
				return nil // still on its way, and deadly when it arrives
			}
		}
	}
	if part == "args" {
		successor.Args = []string{"other"}
	}
	panic(process.Reexec(successor))
}

func start(t *testing.T, part string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	file := t.TempDir() + "/kept"
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o600))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "one", "two")
	cmd.Env = append(os.Environ(), envPlay+"="+part, "PROCESS_TEST_FILE="+file)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

func next(t *testing.T, r *bufio.Reader) report {
	t.Helper()
	line, err := r.ReadBytes('\n')
	require.NoError(t, err)
	var out report
	require.NoError(t, json.Unmarshal(line, &out))
	return out
}

func TestReexecKeepsPIDArgumentsAndFiles(t *testing.T) {
	t.Parallel()
	for part, args := range map[string][]string{"same": {"one", "two"}, "args": {"other"}} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			cmd, out := start(t, part)
			former, successor := next(t, out), next(t, out)
			require.NoError(t, cmd.Wait())
			assert.Equal(t, report{PID: cmd.Process.Pid, Args: []string{"one", "two"}}, former)
			assert.Equal(t, report{PID: cmd.Process.Pid, Args: args, Former: true, Reason: "because", Kept: "content", Percent: 100}, successor,
				"and no child of the former self is left, nor a trace in the environment")
		})
	}
}

func TestSignalsRightAfterReexec(t *testing.T) {
	t.Parallel()
	cmd, out := start(t, "wait")
	next(t, out)
	next(t, out)
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP), "must not end it")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM), "must end it")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal())
	case <-time.After(30 * time.Second):
		t.Fatal("the process ignores SIGTERM after it was replaced")
	}
}

// A signal that comes while the process is being replaced ends it.
func TestSignalJustBeforeReexec(t *testing.T) {
	t.Parallel()
	cmd, out := start(t, "told")
	next(t, out)
	_, err := out.ReadBytes('\n')
	require.ErrorIs(t, err, io.EOF, "there must be no successor")
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal())
}

// An entrypoint may have started something before it replaced itself by this
// program: that is not ours to end.
func TestChildrenOfTheEntrypointStay(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/kept"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `sleep 600 & exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), envPlay+"=same", "PROCESS_TEST_FILE="+file)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	out := bufio.NewReader(pipe)
	next(t, out)
	assert.Equal(t, 1, next(t, out).Children)
}

// The user's own setting comes back.
func TestGarbageIsCollectedAsBefore(t *testing.T) {
	t.Setenv("GOGC", "42")
	cmd, out := start(t, "same")
	next(t, out)
	successor := next(t, out)
	require.NoError(t, cmd.Wait())
	assert.Equal(t, "42", successor.GOGC)
	assert.Equal(t, 42, successor.Percent)
}
