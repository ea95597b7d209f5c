package statedir_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

const (
	envOverlay = "STATEDIR_TEST_OVERLAY"
	// cannotMount begins what the child says if there is no overlay to be had.
	cannotMount = "mounting an overlay: "
)

// disk returns a folder on a disk, if the tests have one.
func disk(t *testing.T) (path string, ok bool) {
	t.Helper()
	for _, path := range []string{t.TempDir(), "."} {
		var s unix.Statfs_t
		require.NoError(t, unix.Statfs(path, &s))
		switch int64(s.Type) { //nolint:unconvert // its type depends on the architecture
		case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
			path, err := filepath.Abs(path)
			require.NoError(t, err)
			return path, true
		}
	}
	return "", false
}

func TestDiskIsNotVolatile(t *testing.T) {
	t.Parallel()
	path, ok := disk(t)
	if !ok {
		t.Skip("the tests have no folder on a disk")
	}
	assert.Empty(t, statedir.Volatile(path))
}

// A container's layer is volatile, and a volume that is mounted in it is not.
func TestOverlayIsVolatile(t *testing.T) {
	t.Parallel()
	volume, _ := disk(t)
	args := []string{"--mount"} // that this test and what it mounts are alone with
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), envOverlay+"="+t.TempDir(), envOverlay+"_VOLUME="+volume)
	out, err := cmd.CombinedOutput()
	said := string(out)
	if err != nil || strings.HasPrefix(said, cannotMount) {
		t.Skipf("no overlay can be mounted here: %v: %s", err, said)
	}
	want := "layer: it is in a container's layer (overlayfs)\n"
	if volume != "" {
		want += "volume: \n"
	}
	assert.Equal(t, want, said)
}

// playOverlay mounts an overlay below dir, and prints what is said of it and of a
// folder that is mounted there.
func playOverlay(dir, volume string) {
	// In memory, since an overlay cannot be the upper layer of another one.
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, name), 0o700)
		}
	}
	merged := filepath.Join(dir, "merged")
	if err == nil {
		err = unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	}
	if err != nil {
		fmt.Print(cannotMount, err)
		return
	}
	state := filepath.Join(merged, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		fmt.Print(err)
		return
	}
	fmt.Printf("layer: %s\n", statedir.Volatile(state))
	if volume == "" {
		return
	}
	if err := unix.Mount(volume, state, "", unix.MS_BIND, ""); err != nil {
		fmt.Print(err)
		return
	}
	fmt.Printf("volume: %s\n", statedir.Volatile(state))
}

// The test binary plays the child before it is known to be one of tests.
func init() {
	if dir := os.Getenv(envOverlay); dir != "" {
		playOverlay(dir, os.Getenv(envOverlay+"_VOLUME"))
		os.Exit(0)
	}
}
