package guard

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReleasable(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []addresses{{0x400000, 0x1400000}, {0x1400000, 0x3000000}}, releasable(`00400000-01400000 r-xp 00000000 fd:00 1234 /usr/bin/otelcol-opamp
Rss:               16384 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01400000-03000000 r--p 01000000 fd:00 1234 /usr/bin/otelcol-opamp (deleted)
Anonymous:             0 kB
03000000-03100000 rw-p 02c00000 fd:00 1234 /usr/bin/otelcol-opamp
Anonymous:             0 kB
03100000-03200000 r--p 02d00000 fd:00 1234 /usr/bin/otelcol-opamp
Anonymous:            16 kB
03200000-03300000 r--s 02d00000 fd:00 1235 /usr/share/shared
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0 
Anonymous:             0 kB
7ffc00000000-7ffc00020000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
`))
	assert.Empty(t, releasable("nonsense\n\n"))
}

// A running process survives that, and holds less of its files. (Not beside other
// tests: they would have pages mapped again.)
func TestReleasePages(t *testing.T) {
	held := func() int {
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		_, rest, ok := strings.Cut(string(status), "RssFile:")
		require.True(t, ok)
		kB, err := strconv.Atoi(strings.Fields(rest)[0])
		require.NoError(t, err)
		return kB
	}
	before := held()
	releasePages()
	after := held()
	t.Logf("%d kB before, %d kB after", before, after)
	assert.Less(t, after, before)
}
