//go:build unix

package otelcol_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const (
	// roleVariable makes the test binary play a process under test.
	roleVariable = "OTELCOL_TEST_ROLE"
	patience     = 20 * time.Second
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

// play does what a Collector might do and returns the exit code.
func play(role string) int {
	say := func(words ...any) { _, _ = fmt.Fprintln(os.Stdout, words...) } // the reader may be gone
	terminated := make(chan os.Signal, 1)
	switch role {
	case "polite":
		signal.Notify(terminated, syscall.SIGTERM)
		say("listening")
		fmt.Fprintln(os.Stderr, "args", os.Args[1:], os.Getenv("OTELCOL_TEST_EXTRA"), os.Getenv("OTELCOL_TEST_SECRET"))
		<-terminated
		_, _ = os.Stdout.WriteString("bye, without a line break")
		return 7
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		say("listening")
		select {}
	case "crash":
		panic("out of luck")
	case "parent":
		signal.Notify(terminated, syscall.SIGTERM)
		child := exec.Command(os.Args[0]) //nolint:noctx // this test binary
		child.Env = append(os.Environ(), roleVariable+"=deaf")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr // keeps the pipe open
		inGroupOfItsOwn(child)
		if err := child.Start(); err != nil {
			panic(err)
		}
		<-terminated
	case "chatty":
		for i := range 1000 {
			say("line", i, strings.Repeat("x", 100))
		}
		say(strings.Repeat("y", 3<<20))
	}
	return 0
}

func start(t *testing.T, role string, change func(*otelcol.Settings)) *otelcol.Process {
	t.Helper()
	s := otelcol.Settings{Binary: os.Args[0], Env: []string{roleVariable + "=" + role}}
	if change != nil {
		change(&s)
	}
	p, err := otelcol.Start(s)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, p.KillAll())
		<-p.Exited()
	})
	return p
}

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestLifeAndOutput(t *testing.T) {
	t.Setenv("OTELCOL_TEST_SECRET", "must-not-be-inherited")
	var copied bytes.Buffer
	p := start(t, "polite", func(s *otelcol.Settings) {
		s.Args = []string{"--config=a"}
		s.Env = append(s.Env, "OTELCOL_TEST_EXTRA=extra")
		s.Dir = t.TempDir()
		s.LogTo = &copied
	})
	require.NoError(t, p.WaitLog(patiently(t), "extra"))
	assert.Positive(t, p.PID())
	assert.WithinDuration(t, time.Now(), p.Started(), patience)
	assert.True(t, p.ExitedAt().IsZero())
	mark := p.LogMark()
	require.NoError(t, p.Stop(patiently(t)))
	code, err := p.Wait(patiently(t))
	require.NoError(t, err)
	assert.Equal(t, 7, code)
	assert.False(t, p.ExitedAt().IsZero())
	line, err := p.WaitLogAfter(t.Context(), mark, "bye")
	require.NoError(t, err)
	assert.Equal(t, 2, line.Index)
	assert.Equal(t, "bye, without a line break", line.Text)
	assert.Equal(t, "listening\nargs [--config=a] extra \nbye, without a line break\n", p.Log())
	assert.Equal(t, p.Log(), copied.String())
	assert.Len(t, p.Lines(), 3)

	require.NoError(t, p.Stop(patiently(t)), "it has ended already")
	require.ErrorIs(t, p.Signal(syscall.SIGHUP), os.ErrProcessDone)
	require.ErrorIs(t, p.Kill(), os.ErrProcessDone)
}

func TestWaitLogFailsWhenTheProcessEnds(t *testing.T) {
	t.Parallel()
	p := start(t, "crash", nil)
	err := p.WaitLog(patiently(t), "Everything is ready")
	require.ErrorContains(t, err, "the process ended")
	require.ErrorContains(t, err, "panic: out of luck", "the last lines are shown")
	code, err := p.Wait(patiently(t))
	require.NoError(t, err)
	assert.Equal(t, 2, code)
}

func TestWaitsEnd(t *testing.T) {
	t.Parallel()
	p := start(t, "deaf", nil)
	require.NoError(t, p.WaitLog(patiently(t), "listening"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.WaitLog(ended, "never"), context.Canceled)
	_, err := p.Wait(ended)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "listening")
}

func TestStopKillsInTheEnd(t *testing.T) {
	t.Parallel()
	p := start(t, "deaf", nil)
	require.NoError(t, p.WaitLog(patiently(t), "listening"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, p.Stop(ended), "did not end after SIGTERM")
	code, err := p.Wait(patiently(t))
	require.NoError(t, err)
	assert.Equal(t, 128+int(syscall.SIGKILL), code)
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	p := start(t, "chatty", func(s *otelcol.Settings) { s.KeepLog = 2 << 20 })
	<-p.Exited()
	lines := p.Lines()
	assert.Less(t, len(lines), 5, "the long line has pushed out the others")
	assert.Equal(t, p.LogMark()-1, lines[len(lines)-1].Index)
	assert.Greater(t, p.LogMark(), 1000)
	assert.LessOrEqual(t, len(p.Log()), 2<<20)
}

func TestBinaryThatIsNotThere(t *testing.T) {
	t.Parallel()
	_, err := otelcol.Start(otelcol.Settings{Binary: "./not-there"})
	require.ErrorContains(t, err, "starting ./not-there")
	require.ErrorIs(t, err, os.ErrNotExist)
}
