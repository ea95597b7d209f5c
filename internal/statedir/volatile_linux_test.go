package statedir_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

func TestVolatile(t *testing.T) {
	t.Parallel()
	// Everywhere, and of a type that is none of those looked for.
	assert.Empty(t, statedir.Volatile("/proc/self"))
	assert.Empty(t, statedir.Volatile(t.TempDir()+"/none"))
	var s unix.Statfs_t
	const shm = "/dev/shm"
	if err := unix.Statfs(shm, &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is no tmpfs here: ", err)
	}
	require.Equal(t, "it is in memory (tmpfs)", statedir.Volatile(shm))
}
