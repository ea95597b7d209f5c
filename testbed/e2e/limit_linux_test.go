package e2e_test

import (
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// limitMemory makes the system give the process no more than that, in bytes.
func (c *collector) limitMemory(most uint64) {
	c.w.t.Helper()
	require.NoError(c.w.t, unix.Prlimit(c.PID(), unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most}, nil))
}
