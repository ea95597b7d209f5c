//go:build failpoints && unix

package statedir_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// write lets a process of its own open the folder, replace the record and write a
// body, with the failpoints.
func write(t *testing.T, dir, failpoints string) (out string, state *os.ProcessState) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "STATEDIR_TEST_WRITE="+dir, "OTELCOL_OPAMP_FAILPOINT="+failpoints)
	data, _ := cmd.CombinedOutput() // how it ended is what is looked at
	require.NotNil(t, cmd.ProcessState)
	return string(data), cmd.ProcessState
}

// The process is killed, or an error is injected, at each step.
func TestFailpoints(t *testing.T) {
	t.Parallel()
	steps := []string{"create", "write", "sync", "close", "keep", "rename", "syncfolder", "done"}
	for i, step := range steps {
		for _, action := range []string{"kill", "error"} {
			dir := filepath.Join(t.TempDir(), "state")
			out, state := write(t, dir, "")
			require.True(t, state.Success(), out)
			d, err := statedir.Open(dir, nil)
			require.NoError(t, err)
			require.NoError(t, d.Replace("record", []byte("former")))
			require.NoError(t, d.Close())
			out, state = write(t, dir, "statedir."+step+":record="+action)
			if action == "kill" {
				require.Equal(t, "signal: killed", state.String(), step)
			} else {
				require.Equal(t, 3, state.ExitCode(), step)
				assert.Contains(t, out, syscall.ENOSPC.Error())
			}
			d, err = statedir.Open(dir, nil)
			require.NoError(t, err)
			got, err := d.Read("record")
			require.NoError(t, err)
			want := "former"
			if i > 5 { // after the rename
				want = "latter"
			}
			assert.Equal(t, want, string(got), "%s at %s", action, step)
			names, err := d.List(".")
			require.NoError(t, err)
			assert.Equal(t, []string{"lock", "record", "record.previous"}, names, "%s at %s", action, step)
			require.NoError(t, d.Close())
		}
	}
	for _, step := range []string{"mkdir", "create", "write", "sync", "close", "rename", "syncfolder", "done"} {
		_, state := write(t, filepath.Join(t.TempDir(), "state"), "statedir."+step+":bodies=kill")
		require.Equal(t, "signal: killed", state.String(), step)
	}
}
