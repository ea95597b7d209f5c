package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The suite runs a sequence of writes once for each operation on files in it and
// each kind of fault, and looks afterwards at what a process would find that
// starts then. It runs on a disk and on memFiles; the latter can tell what a
// power cut would leave.

// fault is what happens to one operation.
type fault string

const (
	faultError fault = "error" // it is not done, and fails
	faultShort fault = "short" // as error, but half of a write is done
	faultLate  fault = "late"  // it is done, and fails
	faultDeath fault = "death" // the process ends before it
)

// errDead is what a process gets to see that has ended: nothing.
var errDead = errors.New("the process has ended")

// faultyFiles counts the operations that change something and lets one of them
// fail.
type faultyFiles struct {
	files
	fault fault
	at    int // which; 0 means none

	count int
	hit   string // the operation that failed
	dead  bool
}

func (f *faultyFiles) do(op string, do func() error) error {
	f.count++
	switch {
	case f.dead:
		return errDead
	case f.count != f.at:
		return do()
	}
	f.hit = op
	switch f.fault {
	case faultLate:
		if err := do(); err != nil {
			return err
		}
	case faultDeath:
		f.dead = true
		return errDead
	case faultError, faultShort:
	}
	return syscall.ENOSPC
}

func (f *faultyFiles) MkdirAll(folder string) error {
	return f.do("mkdir", func() error { return f.files.MkdirAll(folder) })
}

func (f *faultyFiles) Link(name, second string) error {
	return f.do("link", func() error { return f.files.Link(name, second) })
}

func (f *faultyFiles) Rename(from, to string) error {
	op := "rename"
	if strings.HasSuffix(to, previousSuffix) {
		op = "rename previous"
	}
	return f.do(op, func() error { return f.files.Rename(from, to) })
}

func (f *faultyFiles) Remove(name string) error {
	if _, err := f.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return err // nothing is done
	}
	return f.do("remove", func() error { return f.files.Remove(name) })
}

func (f *faultyFiles) SyncFolder(folder string) error {
	return f.do("sync folder", func() error { return f.files.SyncFolder(folder) })
}

func (f *faultyFiles) Create(name string) (file, error) {
	out := &faultyFile{files: f}
	err := f.do("create", func() (err error) {
		out.file, err = f.files.Create(name)
		return err
	})
	if err != nil {
		if out.file != nil {
			_ = out.file.Close() // done, and failed
		}
		return nil, err
	}
	return out, nil
}

type faultyFile struct {
	file
	files *faultyFiles
}

func (f *faultyFile) Write(data []byte) (n int, err error) {
	err = f.files.do("write", func() (err error) {
		n, err = f.file.Write(data)
		return err
	})
	if err != nil && f.files.fault == faultShort {
		n, _ = f.file.Write(data[:len(data)/2]) // it fails anyway
	}
	return n, err
}

func (f *faultyFile) Sync() error { return f.files.do("sync", f.file.Sync) }

func (f *faultyFile) Close() error {
	err := f.file.Close() // a file is gone after Close whatever it returns
	return f.files.do("close", func() error { return err })
}

// script is the sequence of writes. The record "kept" is written with Replace.
var script = []struct{ name, data string }{
	{"kept", "k1"},
	{"bodies/a", "body a"},
	{"kept", "k2"},
	{"plain", "p1"},
	{"kept", "k3"},
	{"bodies/b", "body b"},
	{"plain", "p2 is longer"},
	{"kept", "k4"},
}

// expected is what may be found.
type expected struct {
	content  map[string][]string // of each record; "" stands for none
	previous []string            // of "kept"
}

// write writes a record and takes note of what must be found afterwards.
func (want *expected) write(d *Dir, name, data string) error {
	write := d.Write
	if name == "kept" {
		write = d.Replace
	}
	former := want.content[name]
	if former == nil {
		former = []string{""}
	}
	err := write(name, []byte(data))
	switch {
	case err != nil:
		want.content[name] = append(slices.Clone(former), data)
	default:
		want.content[name] = []string{data}
	}
	if name == "kept" {
		if err == nil && !slices.Contains(former, "") {
			want.previous = nil
		}
		want.previous = append(want.previous, former...)
	}
	return err
}

// play runs the script, and returns what must be found afterwards. Failed are
// the errors of the writes.
func play(t *testing.T, f files) (want expected, failed []error) {
	t.Helper()
	want = expected{content: map[string][]string{}, previous: []string{""}}
	d := &Dir{files: f, path: "test"}
	if err := d.probe(); err != nil {
		failed = append(failed, err)
	}
	for _, s := range script {
		if err := want.write(d, s.name, s.data); err != nil {
			failed = append(failed, err)
		}
	}
	return want, failed
}

// check looks at a folder as a process does that starts now.
func (want expected) check(f files) error {
	d := &Dir{files: f, path: "test"}
	if err := d.clear("."); err != nil {
		return fmt.Errorf("clearing: %w", err)
	}
	for name, contents := range want.content {
		got, err := d.Read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !slices.Contains(contents, string(got)) {
			return errors.Join(fmt.Errorf("%q is %q, want one of %q", name, got, contents), err)
		}
	}
	previous, err := d.Previous("kept")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !slices.Contains(want.previous, string(previous)) {
		return errors.Join(fmt.Errorf("the previous generation is %q, want one of %q", previous, want.previous), err)
	}
	for _, folder := range []string{".", "bodies"} {
		names, err := d.List(folder)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasSuffix(name, tempSuffix) {
				return fmt.Errorf("%q is left over", name)
			}
		}
	}
	return nil
}

// system is one kind of file system under test.
type system struct {
	// fresh returns an empty folder, reopen the same folder for the next
	// process.
	fresh  func(t *testing.T) files
	reopen func(t *testing.T, f files) files
}

func TestConformance(t *testing.T) {
	t.Parallel()
	same := func(_ *testing.T, f files) files { return f }
	openRoot := func(t *testing.T, dir string) files {
		t.Helper()
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		return diskFiles{root}
	}
	for name, s := range map[string]system{
		"memory": {func(*testing.T) files { return newMemFiles() }, same},
		"memory without hard links": {func(*testing.T) files {
			m := newMemFiles()
			m.noLinks = true
			return m
		}, same},
		"disk": {
			func(t *testing.T) files { t.Helper(); return openRoot(t, t.TempDir()) },
			func(t *testing.T, f files) files {
				t.Helper()
				disk, ok := f.(diskFiles)
				require.True(t, ok)
				dir := disk.root.Name()
				require.NoError(t, f.Close())
				return openRoot(t, dir)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := &faultyFiles{files: s.fresh(t)}
			_, failed := play(t, whole)
			require.Empty(t, failed)
			require.NoError(t, whole.Close())
			require.Greater(t, whole.count, 6*len(script), "the faults would miss something")
			for _, kind := range []fault{faultError, faultShort, faultLate, faultDeath} {
				t.Run(string(kind), func(t *testing.T) {
					t.Parallel()
					for at := 1; at <= whole.count+1; at++ {
						s.conform(t, kind, at)
					}
				})
			}
		})
	}
}

func (s system) conform(t *testing.T, kind fault, at int) {
	t.Helper()
	f := &faultyFiles{files: s.fresh(t), fault: kind, at: at}
	want, failed := play(t, f)
	about := fmt.Sprintf("%s at operation %d (%s)", kind, at, f.hit)
	switch {
	case f.hit == "":
		assert.Empty(t, failed, about)
	case kind == faultDeath:
		assert.NotEmpty(t, failed, about)
	case f.hit == "link" && len(failed) == 0:
		// The former content was copied instead.
	default:
		if assert.Len(t, failed, 1, "%s: the fault is returned, and is over", about) {
			require.ErrorIs(t, failed[0], syscall.ENOSPC, about)
		}
	}
	if m, ok := f.files.(*memFiles); ok {
		everyPowerCut(t, m, want, about)
	}
	again := s.reopen(t, f.files)
	require.NoError(t, want.check(again), about)

	// The next process writes where the former ended.
	d := &Dir{files: again, path: "test"}
	require.NoError(t, d.probe(), about)
	for _, name := range []string{"kept", "bodies/a"} {
		require.NoError(t, want.write(d, name, "after"), about)
	}
	if m, ok := again.(*memFiles); ok {
		everyPowerCut(t, m, want, about+", then a power cut")
	}
	require.NoError(t, want.check(again), about)
	require.NoError(t, again.Close())
}

// everyPowerCut looks at all that a power cut could leave.
func everyPowerCut(t *testing.T, m *memFiles, want expected, about string) {
	t.Helper()
	require.LessOrEqual(t, m.choices(), 10, "too many combinations")
	for survive := range uint(1) << m.choices() {
		for _, content := range []torn{tornEmpty, tornHalf, tornGarbage, tornFull} {
			require.NoError(t, want.check(m.powerCut(survive, content)), "%s, power cut leaves %b and unsynced contents %s", about, survive, content)
		}
	}
}

// What fails before the rename leaves the former content, whatever a record may
// become after it.
func TestFailureBeforeTheRenameLeavesTheFormerContent(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault{faultError, faultShort} {
		for at := 1; ; at++ {
			f := &faultyFiles{files: newMemFiles()}
			d := &Dir{files: f, path: "test"}
			require.NoError(t, d.Replace("r", []byte("former")))
			f.fault, f.at, f.count = kind, at, 0
			err := d.Replace("r", []byte("latter"))
			if f.hit == "" {
				require.Greater(t, at, 7)
				break
			}
			if f.hit == "link" || f.hit == "sync folder" {
				continue
			}
			require.ErrorIs(t, err, syscall.ENOSPC, "operation %d (%s)", at, f.hit)
			got, err := d.Read("r")
			require.NoError(t, err)
			require.Equal(t, "former", string(got), "%s of operation %d (%s)", kind, at, f.hit)
		}
	}
}

// The model is worth nothing if it does not lose what was not made durable.
func TestMemoryLosesWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	m := newMemFiles()
	f, err := m.Create("a")
	require.NoError(t, err)
	_, err = f.Write([]byte("content"))
	require.NoError(t, err)
	_, err = m.powerCut(0, tornFull).Lstat("a")
	require.ErrorIs(t, err, fs.ErrNotExist, "the folder was not synced")
	require.NoError(t, m.SyncFolder("."))
	got, err := m.powerCut(0, tornHalf).ReadFile("a")
	require.NoError(t, err)
	assert.Equal(t, "con", string(got), "the file was not synced")
	require.NoError(t, f.Sync())
	require.NoError(t, m.Rename("a", "b"))
	got, err = m.powerCut(0, tornHalf).ReadFile("a")
	require.NoError(t, err)
	assert.Equal(t, "content", string(got), "the rename was not synced")
	_, err = m.powerCut(1, tornHalf).Lstat("a")
	require.ErrorIs(t, err, fs.ErrNotExist, "the rename happened to be durable")
}

func TestFoldersAreMadeDurably(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	require.NoError(t, makeFolder(dir))
	require.NoError(t, makeFolder(dir), "it is there")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, makeFolder(file))
}

// unreadable fails to read, as a disk does.
type unreadable struct{ files }

func (unreadable) ReadFile(name string) ([]byte, error) {
	return nil, memError("read", name, syscall.EIO)
}

// A disk that cannot be read says nothing about the content, and does not keep
// from writing.
func TestReadErrorIsNoDamage(t *testing.T) {
	t.Parallel()
	m := newMemFiles()
	whole, broken := &Dir{files: m}, &Dir{files: unreadable{m}}
	require.NoError(t, whole.Replace("r", []byte("1")))
	require.NoError(t, whole.Replace("r", []byte("2")))
	for _, read := range []func(string) ([]byte, error){broken.Read, broken.Previous} {
		_, err := read("r")
		require.ErrorIs(t, err, syscall.EIO)
		require.NotErrorIs(t, err, ErrCorrupt)
		require.NotErrorIs(t, err, fs.ErrNotExist)
	}
	require.NoError(t, broken.Replace("r", []byte("3")))
	got, err := whole.Read("r")
	require.NoError(t, err)
	assert.Equal(t, "3", string(got))
	got, err = whole.Previous("r")
	require.NoError(t, err)
	assert.Equal(t, "1", string(got), "what could not be read was not kept")
}
