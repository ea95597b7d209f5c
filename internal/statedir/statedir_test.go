package statedir_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

func open(t *testing.T, dir string) *statedir.Dir {
	t.Helper()
	d, err := statedir.Open(dir, nil)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return d
}

func TestWriteThenRead(t *testing.T) {
	t.Parallel()
	d := open(t, filepath.Join(t.TempDir(), "a", "b"))
	require.NoError(t, d.Write("bodies/x", []byte("one")))
	require.NoError(t, d.Write("bodies/x", []byte("two")))
	got, err := d.Read("bodies/x")
	require.NoError(t, err)
	assert.Equal(t, "two", string(got))
	names, err := d.List("bodies")
	require.NoError(t, err)
	assert.Equal(t, []string{"x"}, names)
	require.NoError(t, d.Remove("bodies/x"))
	require.NoError(t, d.Remove("bodies/x"))
	_, err = d.Read("bodies/x")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestEveryDamageIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	require.NoError(t, d.Write("record", []byte("some content")))
	file := filepath.Join(dir, "record")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for i := range good {
		require.NoError(t, os.WriteFile(file, good[:i], 0o600))
		_, err := d.Read("record")
		require.ErrorIs(t, err, statedir.ErrCorrupt, "truncated at %d", i)
		flipped := append([]byte(nil), good...)
		flipped[i] ^= 1
		require.NoError(t, os.WriteFile(file, flipped, 0o600))
		_, err = d.Read("record")
		require.ErrorIs(t, err, statedir.ErrCorrupt, "bit flipped at %d", i)
	}
}

func TestCorruptRecordsAreMovedAsideAndBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	for range 8 {
		require.NoError(t, d.Write("record", []byte("x")))
		_, err := d.MoveAside("record")
		require.NoError(t, err)
	}
	names, err := d.List(".")
	require.NoError(t, err)
	assert.Equal(t, []string{"lock", "record.corrupt.1", "record.corrupt.2", "record.corrupt.3", "record.corrupt.4", "record.corrupt.5"}, names)
}

func TestModesHoldUnderAnyUmask(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	d := open(t, dir)
	require.NoError(t, d.Write("bodies/x", []byte("secret")))
	for path, want := range map[string]fs.FileMode{".": 0o700, "bodies": 0o700, "bodies/x": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), path)
	}
}

func TestLeftoversOfACrashAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "record.tmp"), []byte("half"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bodies"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bodies", "x.tmp"), []byte("half"), 0o600))
	d := open(t, dir)
	bodies, err := d.List("bodies")
	require.NoError(t, err)
	assert.Empty(t, bodies)
	names, err := d.List(".")
	require.NoError(t, err)
	assert.Equal(t, []string{"lock"}, names)
}

func TestReadOnlyWritesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := statedir.OpenReadOnly(dir)
	require.NoError(t, err)
	defer func() { assert.NoError(t, d.Close()) }()
	require.ErrorIs(t, d.Write("record", nil), fs.ErrPermission)
	require.ErrorIs(t, d.Replace("record", nil), fs.ErrPermission)
	require.ErrorIs(t, d.Remove("record"), fs.ErrPermission)
	_, err = d.MoveAside("record")
	require.ErrorIs(t, err, fs.ErrPermission)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries)
	_, err = statedir.OpenReadOnly(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestMain lets the test binary play other processes.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STATEDIR_TEST_OPEN"); dir != "" {
		_, err := statedir.Open(dir, nil)
		if _, ok := errors.AsType[*statedir.LockedError](err); ok {
			fmt.Print(err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("STATEDIR_TEST_WRITE"); dir != "" {
		d, err := statedir.Open(dir, nil)
		if err == nil {
			err = errors.Join(d.Replace("record", []byte("latter")), d.Write("bodies/x", []byte("body")))
		}
		if err != nil {
			fmt.Print(err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSecondProcessIsRefusedAndToldTheOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := statedir.Open(dir, nil)
	require.NoError(t, err)
	second := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "STATEDIR_TEST_OPEN="+dir)
		out, err := cmd.Output()
		return string(out), err
	}
	out, err := second()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 3, exit.ExitCode())
	assert.Contains(t, out, "in use by process "+strconv.Itoa(os.Getpid()))
	assert.Contains(t, out, "state_dir=")
	require.NoError(t, d.Close())
	_, err = second()
	require.NoError(t, err, "the lock ends with its owner")
}

func TestLocate(t *testing.T) {
	abs := t.TempDir()
	t.Setenv(statedir.EnvStateDir, "")
	t.Setenv(statedir.EnvSystemd, "")
	seen := map[string]string{}
	for _, name := range []string{"", "edge", "..", "a/b", "a b", ".", "edge.", strings.Repeat("x", 1000)} {
		got, err := statedir.Locate(abs, name)
		require.NoError(t, err)
		assert.Equal(t, abs, filepath.Dir(got), "%q stays one element below the parent", name)
		assert.Empty(t, seen[got], "%q and %q share a folder", name, seen[got])
		seen[got] = name
	}
	_, err := statedir.Locate("relative", "")
	require.ErrorContains(t, err, "state_dir")

	t.Setenv(statedir.EnvSystemd, abs+"/systemd:"+abs+"/second")
	got, err := statedir.Locate("", "")
	require.NoError(t, err)
	assert.Equal(t, abs+"/systemd/opamp", got)
	t.Setenv(statedir.EnvStateDir, abs+"/env")
	got, err = statedir.Locate("", "edge")
	require.NoError(t, err)
	assert.Equal(t, abs+"/env/opamp.edge", got)
	t.Setenv(statedir.EnvStateDir, "not/absolute")
	_, err = statedir.Locate("", "")
	require.ErrorContains(t, err, statedir.EnvStateDir)
}

// seal returns data as a record of the given version; for those after 1 the
// checksum covers the header.
func seal(version, data string) []byte {
	header := "otelcol-opamp-state " + version + " sha256 "
	sum := sha256.Sum256([]byte(header + data))
	return fmt.Appendf(nil, "%s%x\n%s", header, sum, data)
}

// A later version's record is none of ours, but no damage either; a damaged
// version is damage.
func TestLaterVersionIsNoDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	file := filepath.Join(dir, "record")
	later := seal("2", "content")
	require.NoError(t, os.WriteFile(file, later, 0o600))
	_, err := d.Read("record")
	require.ErrorIs(t, err, statedir.ErrVersion)
	require.NotErrorIs(t, err, statedir.ErrCorrupt)
	require.ErrorContains(t, err, "its format is 2, and this program knows formats up to 1")
	for i := range later {
		require.NoError(t, os.WriteFile(file, later[:i], 0o600))
		_, err := d.Read("record")
		require.ErrorIs(t, err, statedir.ErrCorrupt, "truncated at %d", i)
		for bit := range 8 {
			flipped := append([]byte(nil), later...)
			flipped[i] ^= 1 << bit
			require.NoError(t, os.WriteFile(file, flipped, 0o600))
			_, err = d.Read("record")
			require.ErrorIs(t, err, statedir.ErrCorrupt, "bit %d flipped at %d", bit, i)
		}
	}
}

func TestPreviousGeneration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	_, err := d.Previous("record")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, d.Replace("record", []byte("1")))
	_, err = d.Previous("record")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, d.Replace("record", []byte("2")))
	require.NoError(t, d.Replace("record", []byte("3")))
	got, err := d.Previous("record")
	require.NoError(t, err)
	assert.Equal(t, "2", string(got))
	// A damaged record is not worth more than the generation before it.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "record"), []byte("damaged"), 0o600))
	require.NoError(t, d.Replace("record", []byte("4")))
	got, err = d.Previous("record")
	require.NoError(t, err)
	assert.Equal(t, "2", string(got))
}

// Somebody put symbolic links where the files belong.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("precious"), 0o600))
	folder := filepath.Dir(outside)
	dir := t.TempDir()
	d := open(t, dir)
	require.NoError(t, d.Write("inside", []byte("inside")))
	for _, target := range []string{outside, "inside"} {
		for _, name := range []string{"record", "record.tmp", "record.previous", "record.previous.tmp", "record.corrupt.1"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "record"), nil, 0o600))
			link := filepath.Join(dir, name)
			require.NoError(t, os.RemoveAll(link))
			require.NoError(t, os.Symlink(target, link))
			if name == "record" {
				_, err := d.Read(name)
				require.ErrorIs(t, err, statedir.ErrCorrupt)
			}
			_, err := d.MoveAside("record")
			require.NoError(t, err)
			require.NoError(t, d.Replace("record", []byte("1")), name)
			require.NoError(t, d.Replace("record", []byte("2")), name)
			got, err := d.Read("record")
			require.NoError(t, err)
			assert.Equal(t, "2", string(got))
			got, err = d.Previous("record")
			require.NoError(t, err)
			assert.Equal(t, "1", string(got))
		}
	}
	require.NoError(t, os.Symlink(folder, filepath.Join(dir, "bodies")))
	_, err := d.Read("bodies/outside")
	require.ErrorIs(t, err, statedir.ErrCorrupt)
	names, err := d.List("bodies")
	require.NoError(t, err)
	assert.Empty(t, names)
	require.NoError(t, d.Write("bodies/x", []byte("x")))
	got, err := d.Read("bodies/x")
	require.NoError(t, err)
	assert.Equal(t, "x", string(got))
	info, err := os.Lstat(filepath.Join(dir, "bodies.corrupt.1"))
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&fs.ModeSymlink, "the link is kept for an operator")

	got, err = os.ReadFile(outside)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(got))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	got, err = d.Read("inside")
	require.NoError(t, err)
	assert.Equal(t, "inside", string(got))
}

func TestLockThatIsALinkIsRefused(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"record", filepath.Join(t.TempDir(), "outside")} {
		dir := t.TempDir()
		target := link
		if !filepath.IsAbs(link) {
			target = filepath.Join(dir, link)
		}
		require.NoError(t, os.WriteFile(target, []byte("precious"), 0o600))
		require.NoError(t, os.Symlink(link, filepath.Join(dir, "lock")))
		_, err := statedir.Open(dir, nil)
		require.ErrorContains(t, err, `"lock" is not a regular file: remove it`)
		got, err := os.ReadFile(target)
		require.NoError(t, err)
		assert.Equal(t, "precious", string(got))
	}
}
