//go:build unix

package opampextension

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
)

const (
	envPlay   = "OPAMPEXTENSION_TEST_PLAY"
	envParent = "OPAMPEXTENSION_TEST_PARENT"
)

// init lets the test binary play a supervisor and the Collectors that it starts:
// the package's TestMain is generated.
func init() {
	switch os.Getenv(envPlay) {
	case "":
		return
	case "supervisor":
		cmd := exec.Command(os.Args[0]) //nolint:noctx // it is to outlive this process
		cmd.Env = append(os.Environ(), envPlay+"=collector", envParent+"="+strconv.Itoa(os.Getpid()))
		cmd.Stdout = os.Stdout
		_ = cmd.Start() // the test notices
		_ = cmd.Wait()  // until this process is killed
	case "collector":
		playCollector(true)
	case "collector that does not start":
		playCollector(false)
	}
	os.Exit(0)
}

// playCollector does what a Collector does with the extension until it is told
// to end.
func playCollector(starts bool) {
	told := make(chan os.Signal, 1)
	if starts {
		signal.Notify(told, syscall.SIGTERM)
	}
	pid, _ := strconv.Atoi(os.Getenv(envParent)) // 0 is none
	e := child(pid)
	e.cfg.Rollout.DrainTimeout = 100 * time.Millisecond
	if starts {
		e.cfg.Rollout.DrainTimeout = waitTime
	}
	if err := e.Start(context.Background(), componenttest.NewNopHost()); err != nil {
		fmt.Println(err)
		return
	}
	if starts {
		_ = e.Ready() // it returns none
	}
	fmt.Println("started")
	select {
	case <-told:
		fmt.Println("told to end", e.Shutdown(context.Background()))
	case <-time.After(waitTime):
		fmt.Println("not told to end")
	}
}

// child returns an extension that watches a process.
func child(pid int) *opampExtension {
	cfg := createDefaultConfig().(*Config)
	cfg.Server.WS = &ConnectionConfig{}
	cfg.Server.WS.Endpoint = "ws://127.0.0.1:1/v1/opamp" // nobody is there
	cfg.PPID = int32(pid)
	cfg.PPIDPollInterval = 10 * time.Millisecond
	return newExtension(extensiontest.NewNopSettings(metadata.Type), cfg)
}

// endedPID returns the ID of a process that has ended.
func endedPID(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "true")
	require.NoError(t, cmd.Run())
	return cmd.Process.Pid
}

// An orphan ends in order.
//
// Conformance: E2
func TestOrphanEndsInOrder(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envPlay+"=supervisor")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // only read from
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	lines := bufio.NewScanner(r)
	require.True(t, lines.Scan())
	require.Equal(t, "started", lines.Text())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "it was killed")
	require.True(t, lines.Scan(), "the child must say how it ends")
	assert.Equal(t, "told to end <nil>", lines.Text())
}

// An orphan that does not start, or does not stop, ends nevertheless.
func TestOrphanThatHangsEnds(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envPlay+"=collector that does not start", envParent+"="+strconv.Itoa(endedPID(t)))
	out, err := cmd.Output()
	assert.Equal(t, "started\n", string(out))
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.Truef(t, ok, "it must be ended by a signal: %v", err)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	assert.Equal(t, syscall.SIGTERM, status.Signal())
}

// The Collector does not listen before it is ready: it would be killed.
func TestOrphanIsToldWhenItIsReady(t *testing.T) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	defer signal.Stop(told)
	e := child(endedPID(t))
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	select {
	case <-told:
		t.Fatal("told to end before it was ready")
	case <-time.After(10 * e.cfg.PPIDPollInterval):
	}
	require.NoError(t, e.Ready())
	select {
	case <-told:
	case <-time.After(waitTime):
		t.Fatal("not told to end")
	}
	require.NoError(t, e.Shutdown(t.Context()))
}

// Shutdown ends the watch; that nothing is left is seen at the end of all tests.
func TestWatchOfALivingParentEnds(t *testing.T) {
	t.Parallel()
	e := child(os.Getppid())
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	require.NotNil(t, e.parent)
	require.NoError(t, e.Ready())
	require.NoError(t, e.Shutdown(t.Context()))
}
