package process_test

import (
	"bufio"
	"context"
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

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

const (
	envParent = "PROCESS_TEST_PARENT"
	// familyLook is the time between two looks at a parent.
	familyLook = 5 * time.Millisecond
	// familyTime bounds the lives of played processes; only a failing test
	// reaches it.
	familyTime = 30 * time.Second
)

// playFamily plays a parent or a child that watches it, and reports whether the
// part is one of these.
func playFamily(part string) bool {
	switch part {
	case "parent", "grandparent":
		cmd := exec.Command(os.Args[0]) //nolint:noctx // it is to outlive this process
		if part == "grandparent" {
			cmd = exec.Command("sh", "-c", `"$0"; true`, os.Args[0]) //nolint:noctx // as above
		}
		cmd.Env = append(os.Environ(), envPlay+"=child", envParent+"="+strconv.Itoa(os.Getpid()))
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return true
		}
		_ = cmd.Wait() // until this process is killed
	case "child":
		playChild()
	default:
		return false
	}
	return true
}

func playChild() {
	pid, _ := strconv.Atoi(os.Getenv(envParent)) // 0 is no process
	parent, err := process.FindParent(pid)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer parent.Close()
	fmt.Println("watching", parent.Gone())
	deadline := time.Now().Add(familyTime)
	for range time.Tick(familyLook) {
		if parent.Gone() {
			fmt.Println("gone")
			return
		}
		if time.Now().After(deadline) {
			fmt.Println("still there")
			return
		}
	}
}

// A child notices that its parent, or who stands further above, was killed.
func TestEndOfTheParentIsNoticed(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"parent", "grandparent"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), envPlay+"="+part)
			r, w, err := os.Pipe()
			require.NoError(t, err)
			defer r.Close() //nolint:errcheck // only read from
			cmd.Stdout = w
			require.NoError(t, cmd.Start())
			require.NoError(t, w.Close())
			lines := bufio.NewScanner(r)
			require.True(t, lines.Scan())
			require.Equal(t, "watching false", lines.Text())
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait(), "it was killed")
			require.True(t, lines.Scan(), "the child must say something before it ends")
			assert.Equal(t, "gone", lines.Text())
		})
	}
}

func TestParentThatHadEndedBefore(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "true")
	require.NoError(t, cmd.Run())
	parent, err := process.FindParent(cmd.Process.Pid)
	require.NoError(t, err)
	defer parent.Close()
	assert.True(t, parent.Gone())
}

// A process that was started after this one cannot have started it: it has got
// the ID of one that has ended.
func TestParentWhoseIDWasGivenAway(t *testing.T) {
	t.Parallel()
	require.Eventually(t, func() bool { // the clock for the starts of processes ticks every 10 ms
		cmd := exec.CommandContext(t.Context(), "sleep", "600")
		if !assert.NoError(t, cmd.Start()) {
			return true
		}
		defer func() {
			_ = cmd.Process.Kill() // it does nothing
			_ = cmd.Wait()         // it was killed
		}()
		parent, err := process.FindParent(cmd.Process.Pid)
		if !assert.NoError(t, err) {
			return true
		}
		defer parent.Close()
		return parent.Gone()
	}, familyTime, familyLook)
}

// The ID of a parent in another PID namespace means nothing.
func TestParentInAnotherNamespace(t *testing.T) {
	t.Parallel()
	unshare := []string{"--pid", "--fork", "--mount-proc"}
	if out, err := exec.CommandContext(t.Context(), "unshare", append(unshare, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace can be made here: %v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(unshare, os.Args[0])...)
	cmd.Env = append(os.Environ(), envPlay+"=child", envParent+"=1")
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, process.ErrForeignParent.Error()+"\n", string(out))
}

func TestTellToEndRepeatsItself(t *testing.T) {
	taken := make(chan os.Signal, 1)
	signal.Notify(taken, syscall.SIGTERM)
	defer signal.Stop(taken)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- process.TellToEnd(ctx) }()
	for range 2 {
		select {
		case <-taken:
		case <-time.After(familyTime):
			t.Fatal("no signal came")
		}
	}
	cancel()
	require.NoError(t, <-done)
}
