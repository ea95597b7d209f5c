//go:build failpoints

package failpoint

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const begin = "begin\n"

// TestMain lets the test binary play a process with failpoints.
func TestMain(m *testing.M) {
	if name := os.Getenv("FAILPOINT_TEST_HIT"); name != "" {
		fmt.Print(begin)
		fmt.Println(Hit("other"), Hit(name))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, rules string) (string, *os.ProcessState) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FAILPOINT_TEST_HIT=point", Env+"="+rules)
	out, _ := cmd.CombinedOutput() // how it ended is what is looked at
	require.NotNil(t, cmd.ProcessState)
	return string(out), cmd.ProcessState
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	out, state := child(t, "")
	assert.True(t, state.Success())
	assert.Equal(t, begin+"<nil> <nil>\n", out)
	out, state = child(t, "point=error")
	assert.True(t, state.Success())
	assert.Equal(t, begin+"<nil> failpoint point: "+syscall.ENOSPC.Error()+"\n", out)
	out, state = child(t, "point=nonsense")
	assert.False(t, state.Success())
	assert.Contains(t, out, "unknown action")
}

func TestKill(t *testing.T) {
	t.Parallel()
	out, state := child(t, "point=kill")
	assert.Equal(t, begin, out)
	if runtime.GOOS == "windows" {
		assert.Equal(t, 137, state.ExitCode())
		return
	}
	assert.Equal(t, "signal: killed", state.String())
}

// failing returns the numbers of the hits that fail.
func failing(t *testing.T, rules string, names ...string) []int {
	t.Helper()
	p, err := parse(rules)
	require.NoError(t, err)
	var out []int
	for i, name := range names {
		if err := p.hit(name); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.ErrorContains(t, err, "failpoint "+name)
			out = append(out, i+1)
		}
	}
	return out
}

func TestWhichHits(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []int{1, 3}, failing(t, "a=error", "a", "b", "a"), "an error is for every hit")
	assert.Equal(t, []int{3}, failing(t, "a=error@2", "a", "b", "a", "a"))
	assert.Equal(t, []int{2}, failing(t, "a.*=error@2", "a.x", "a.y", "a.x"), "a prefix counts all together")
	assert.Equal(t, []int{2}, failing(t, "*=error@2", "a", "b", "c"))
	assert.Equal(t, []int{1, 4}, failing(t, "a=error@1, b=error@2", "a", "b", "a", "b"))
	assert.Empty(t, failing(t, "a=error", "ab", "A", ""), "without * the name is the whole name")
}

func TestPanic(t *testing.T) {
	t.Parallel()
	p, err := parse("a=panic@2")
	require.NoError(t, err)
	require.NoError(t, p.hit("a"))
	assert.PanicsWithValue(t, "failpoint a", func() { _ = p.hit("a") })
	require.NoError(t, p.hit("a"), "once")
}

func TestHang(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FAILPOINT_TEST_HIT=point", Env+"=point=hang")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	begun := make([]byte, len(begin))
	_, err = io.ReadFull(out, begun)
	require.NoError(t, err)
	// What follows is microseconds away, or the runtime's report of a deadlock.
	timer := time.AfterFunc(500*time.Millisecond, func() { assert.NoError(t, cmd.Process.Kill()) })
	defer timer.Stop()
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	assert.Empty(t, string(rest))
	require.Error(t, cmd.Wait())
	assert.Equal(t, -1, cmd.ProcessState.ExitCode(), "it did not end by itself")
}

func TestUnreadableRules(t *testing.T) {
	t.Parallel()
	for _, rules := range []string{"a", "=kill", "a=", "a=kill@", "a=kill@0", "a=kill@x", "a=kill,", "a=stop"} {
		_, err := parse(rules)
		require.Error(t, err, rules)
	}
}
