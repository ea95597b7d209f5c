package process_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

const (
	// partOneLate is the first process of a container, which is told to end right
	// after it looked for the last time whether it was.
	partOneLate = "one late"
	// partOneTold is one that was told before.
	partOneTold = "one told"

	// lateTime is how long a process that is about to be replaced waits for a
	// signal to end it.
	lateTime = time.Second

	lineReplacing = "replacing"
	lineReplaced  = "replaced"
)

// playOne plays a process 1, and reports whether the part is one.
func playOne(part string) bool {
	if part != partOneLate && part != partOneTold {
		return false
	}
	if _, former := process.FromFormer(); former {
		fmt.Println(lineReplaced)
		return true
	}
	fmt.Println(lineReplacing)
	stop := process.WatchStop(func(s os.Signal) { told <- s })
	panic(process.Reexec(process.Successor{Reason: "because", Told: func() os.Signal {
		stop()
		if part == partOneTold {
			return syscall.SIGTERM
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			panic(err)
		}
		// Go's handler needs some microseconds; without one this goes on.
		<-time.After(lateTime)
		return nil
	}}))
}

// The kernel drops a signal of process 1 that has the default action. Until the
// execve it has another one, and ends the process.
func TestProcessOneIsToldToEndJustBeforeItIsReplaced(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("no PID namespace can be made here: %v: %s", err, out)
	}
	for part, want := range map[string]int{
		partOneLate: 2, // Go's own, of a signal that nobody listens for and that cannot end process 1
		partOneTold: 128 + int(syscall.SIGTERM),
	} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", os.Args[0])
			cmd.Env = append(os.Environ(), envPlay+"="+part)
			pipe, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			defer time.AfterFunc(familyTime, func() { _ = cmd.Process.Kill() }).Stop()
			out := bufio.NewReader(pipe)
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			assert.Equal(t, lineReplacing+"\n", line)
			rest, err := io.ReadAll(out)
			require.NoError(t, err)
			assert.Empty(t, string(rest), "there must be no successor")
			_ = cmd.Wait() // its exit code is looked at
			assert.Equal(t, want, cmd.ProcessState.ExitCode())
		})
	}
}
