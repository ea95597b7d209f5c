package agent_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// nobody is the user that owns nothing, on all distributions of Linux.
const nobody = 65534

// asNobody runs f, which must do its work with files on its own goroutine, with
// the rights of a user that is not root. Another user's tests run as they are.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread() // the file system's user belongs to the thread
	defer runtime.UnlockOSThread()
	_, err := unix.SetfsuidRetUid(nobody)
	require.NoError(t, err)
	defer func() {
		_, err := unix.SetfsuidRetUid(0)
		assert.NoError(t, err)
	}()
	f()
}

// giveAway makes all below path belong to the user that asNobody runs as.
func giveAway(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	require.NoError(t, fs.WalkDir(os.DirFS(path), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(filepath.Join(path, name), nobody, nobody)
	}))
}

// run takes the provider's lease and returns why no remote configuration is
// accepted, and what was logged about it. What the folder holds runs, if it can be
// read.
func run(t *testing.T, parent string) (off string, logged *observer.ObservedLogs) {
	t.Helper()
	core, logged := observer.New(zap.WarnLevel)
	p, err := agent.AcquireProvider(t.Context(), t.Name(), parent, zap.New(core))
	require.NoError(t, err)
	off = p.RemoteConfigOff()
	answer, err := p.Retrieve(t.Context(), false, func() {})
	require.NoError(t, err)
	readable := logged.FilterMessageSnippet("until the state folder can be written: what it holds is run").Len() == 1
	if readable {
		assert.Equal(t, map[string]any{"receivers": map[string]any{"b": map[string]any{}}}, answer.Conf)
	} else if off != "" {
		assert.Empty(t, answer.Conf)
		assert.Len(t, logged.FilterMessageSnippet("No remote configuration will be accepted and none that was is known").All(), 1)
	}
	require.NoError(t, answer.Done(t.Context()))
	require.NoError(t, p.Release(t.Context()))
	return off, logged
}

// A record that is there and cannot be read, here because it belongs to another
// user, may hold anything. The agent used to take it for lost, and wrote an empty
// one over it.
func TestRecordThatCannotBeReadIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	r := f.record(t)
	for _, name := range []string{"rollout", "bodies/" + r.LastKnownGood.Digest} {
		parent := filepath.Dir(fastFolder(t))
		path, err := statedir.Locate(parent, t.Name())
		require.NoError(t, err)
		f.write(t, path)
		require.NoError(t, os.Chmod(filepath.Join(path, name), 0))
		require.NoError(t, os.Chmod(parent, 0o755))
		giveAway(t, path)
		asNobody(t, func() {
			off, logged := run(t, parent)
			assert.Contains(t, off, "the state folder cannot be used: reading record \""+name+"\"", name)
			assert.Contains(t, off, "permission denied: give the folder and all in it to the user that this process runs as")
			assert.Len(t, logged.FilterMessageSnippet("the state folder cannot be used").All(), 1)
		})
		require.NoError(t, os.Chmod(filepath.Join(path, name), 0o600))
		left := readFolder(t, path)
		left["lock"] = f["lock"] // names this process
		assert.Equal(t, f, left, "nothing is written because of %q", name)

		// When it can be read again, all is as it was.
		asNobody(t, func() {
			got, notes, err := agent.Load(path, "boot")
			require.NoError(t, err)
			assert.Empty(t, notes)
			assert.Equal(t, r, got)
		})
	}
}

// An earlier known good that cannot be read is not needed now, and is not
// forgotten.
func TestEarlierKnownGoodThatCannotBeReadIsKept(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	r := f.record(t)
	path := fastFolder(t)
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	f.write(t, path)
	require.NoError(t, os.Chmod(filepath.Join(path, "bodies", r.Earlier[0].Digest), 0))
	giveAway(t, path)
	asNobody(t, func() {
		got, notes, err := agent.Load(path, "boot")
		require.NoError(t, err)
		assert.Empty(t, notes)
		assert.Equal(t, r, got)
	})
}

// What does not decide about what runs is no reason not to run it. An instance
// UID that cannot be read is not replaced.
func TestSmallRecordThatCannotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	r := f.record(t)
	for name, want := range map[string]string{
		"instance_uid":        "for now, the saved instance UID is lost",
		"required_extensions": "for now, the list of required extensions is lost",
		"safe_mode":           "for now, the configuration for safe mode is lost",
	} {
		parent := filepath.Dir(fastFolder(t))
		path, err := statedir.Locate(parent, t.Name())
		require.NoError(t, err)
		f.write(t, path)
		require.NoError(t, os.Chmod(filepath.Join(path, name), 0))
		require.NoError(t, os.Chmod(parent, 0o755))
		giveAway(t, path)
		asNobody(t, func() {
			got, notes, err := agent.Load(path, "boot")
			require.NoError(t, err)
			require.Len(t, notes, 1)
			assert.Contains(t, notes[0], want)
			assert.Contains(t, notes[0], "permission denied")
			assert.Equal(t, r, got)
			_, err = agent.UID(path)
			require.Equal(t, name == "instance_uid", err != nil)
		})
		require.NoError(t, os.Chmod(filepath.Join(path, name), 0o600))
		left := readFolder(t, path)
		left["lock"] = f["lock"] // names this process
		assert.Equal(t, f, left)
	}
}

// The folder belongs to another user, or to this one and may not be written.
func TestFolderOfAWrongOwnerOrReadOnly(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	for _, tt := range []struct {
		name  string
		spoil func(path string)
		// readable: what is in it can be read.
		readable bool
	}{
		{"another user's", func(path string) {
			if os.Geteuid() != 0 { // what a folder of root's looks like to others
				require.NoError(t, os.Chmod(path, 0))
			}
		}, false},
		{"another user's files", func(path string) {
			if os.Geteuid() == 0 {
				require.NoError(t, os.Lchown(path, nobody, nobody))
				return
			}
			require.NoError(t, os.Chmod(filepath.Join(path, "lock"), 0))
		}, os.Geteuid() != 0},
		{"read-only", func(path string) {
			giveAway(t, path)
			require.NoError(t, os.Chmod(path, 0o500))
		}, true},
	} {
		parent := filepath.Dir(fastFolder(t))
		require.NoError(t, os.Chmod(parent, 0o755))
		path, err := statedir.Locate(parent, t.Name())
		require.NoError(t, err)
		f.write(t, path)
		tt.spoil(path)
		asNobody(t, func() {
			off, logged := run(t, parent)
			assert.Contains(t, off, "permission denied: give the folder and all in it to the user that this process runs as", tt.name)
			assert.Equal(t, tt.readable, logged.FilterMessageSnippet("what it holds is run").Len() == 1, tt.name)
		})
		require.NoError(t, os.Chmod(path, 0o700))
		require.NoError(t, os.Chmod(filepath.Join(path, "lock"), 0o600)) // as it was
		found, former := readFolder(t, path), maps.Clone(f)
		delete(found, "lock") // which says since when the process runs
		delete(former, "lock")
		assert.Equal(t, former, found, "%s: nothing is written", tt.name)
	}
}

// Root may write everywhere, and leaves what the folder's owner cannot read.
func TestFolderOfAnotherUserIsWarnedOf(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can write in the folder of another user, and give a folder away")
	}
	parent := t.TempDir()
	path, err := statedir.Locate(parent, t.Name())
	require.NoError(t, err)
	warnings := func() []observer.LoggedEntry {
		_, logged := run(t, parent)
		return logged.FilterMessageSnippet("The state folder belongs to another user").All()
	}
	require.Empty(t, warnings(), "it was made by this process")
	require.NoError(t, os.Lchown(path, nobody, nobody))
	got := warnings()
	require.Len(t, got, 1)
	assert.Contains(t, got[0].Message, "will not be able to use the folder")
	assert.Contains(t, got[0].Message, "give the folder and all in it to the user that it runs as")
	assert.Equal(t, map[string]any{"folder": path, "owner": int64(nobody), "user": int64(0)}, got[0].ContextMap())

	// And it is true.
	require.NoError(t, os.Chmod(parent, 0o755))
	asNobody(t, func() {
		off, _ := run(t, parent)
		assert.Contains(t, off, "the state folder cannot be used")
	})
}

// small mounts a file system of 64 KiB that only the calling goroutine sees, and
// which ends with it.
func small(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skip("mounting is not permitted here: ", err)
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mounting is not permitted here: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fill leaves no space on the file system of dir, and returns how to free it.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	file := filepath.Join(dir, "filler")
	require.ErrorIs(t, os.WriteFile(file, make([]byte, 128<<10), 0o600), unix.ENOSPC)
	return func() { require.NoError(t, os.Remove(file)) }
}

// The disk is full: what was saved stays, a start says so, and nothing more is
// needed than space.
func TestFullDisk(t *testing.T) {
	f := realRun(t)
	parent := small(t)
	path, err := statedir.Locate(parent, t.Name())
	require.NoError(t, err)
	f.write(t, path)
	r, notes, err := agent.Load(path, "boot")
	require.NoError(t, err)
	require.Empty(t, notes)

	dir, err := statedir.Open(path, nil)
	require.NoError(t, err)
	free := fill(t, parent)
	for range 3 {
		require.ErrorIs(t, dir.Replace("rollout", []byte("{}")), unix.ENOSPC)
		require.ErrorIs(t, dir.Write("bodies/x", []byte("x")), unix.ENOSPC)
	}
	require.NoError(t, dir.Close())
	got, notes, err := agent.LoadReadOnly(path)
	require.NoError(t, err)
	assert.Empty(t, notes)
	assert.Equal(t, r, got)

	off, logged := run(t, parent)
	assert.Contains(t, off, "the state folder cannot be used: ")
	assert.Contains(t, off, "no space left on device: free some space")
	assert.Equal(t, 1, logged.FilterMessageSnippet("what it holds is run").Len())

	free()
	got, notes, err = agent.Load(path, "boot")
	require.NoError(t, err)
	assert.Empty(t, notes)
	assert.Equal(t, r, got)
}

func TestReadOnlyFileSystem(t *testing.T) {
	f := realRun(t)
	parent := small(t)
	path, err := statedir.Locate(parent, t.Name())
	require.NoError(t, err)
	f.write(t, path)
	require.NoError(t, unix.Mount("", parent, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	off, logged := run(t, parent)
	assert.Contains(t, off, "read-only file system: put the folder on a volume that can be written")
	assert.Equal(t, 1, logged.FilterMessageSnippet("what it holds is run").Len())
	assert.Equal(t, f, readFolder(t, path))
}
