package statedir

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
)

// ErrCorrupt is returned for a record whose checksum, header or length does
// not match its content, or that is no regular file.
var ErrCorrupt = errors.New("record is corrupt")

// ErrVersion is returned for an intact record in a format that this program does
// not know. It must be left alone.
var ErrVersion = errors.New("record was written by a later version of this program")

// ErrNotWritable is returned with a folder that can be read and not written.
var ErrNotWritable = errors.New("it cannot be written")

const (
	// magic starts every record. The format's version and the checksum follow.
	magic     = "otelcol-opamp-state "
	version   = "1"
	algorithm = " sha256 "
	// header starts every record of this version.
	header = magic + version + algorithm
	// tempSuffix marks a write that has not been renamed yet; such files are
	// leftovers of a crash and are removed by Open.
	tempSuffix = ".tmp"
	// previousSuffix marks the content that a record had before.
	previousSuffix = ".previous"
	// corruptSuffix marks records that were moved aside.
	corruptSuffix = ".corrupt"
	// maxRecord bounds what is read into memory, in bytes: the largest offer
	// the session accepts (5 MiB), as base64 with room to spare. A larger
	// file is not one of ours.
	maxRecord = 32 << 20
	// maxCorrupt is how many corrupt versions of one record are kept for an
	// operator to look at; more would let a broken disk fill the folder.
	maxCorrupt = 5
)

// Dir is one agent's folder. Its methods must not be called concurrently; the
// agent's goroutine owns it.
type Dir struct {
	files    files
	path     string
	lock     *os.File // nil when read-only
	readOnly bool
}

// Open creates the folder if needed (0700, its parents too), takes its lock and
// removes what a crash left behind. It returns a [LockedError] if another
// process owns the folder. The caller must Close the result.
//
// With [ErrNotWritable] there is a result too: what is in the folder can be read,
// and writing fails, until [Dir.Retry] succeeds.
//
// Inherited is the result of [Dir.Lock] in the process's former self, if it was
// re-executed; nil otherwise. Open takes it over.
func Open(dir string, inherited *os.File) (*Dir, error) {
	d, err := open(dir, inherited)
	if err != nil {
		return d, advise(err)
	}
	return d, nil
}

func open(dir string, inherited *os.File) (*Dir, error) {
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("creating state folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	lock, err := acquireLock(root, dir, inherited)
	if _, ok := errors.AsType[*LockedError](err); ok {
		return nil, errors.Join(err, root.Close())
	}
	d := &Dir{files: diskFiles{root}, path: dir, lock: lock, readOnly: true}
	if err == nil {
		err = d.Retry()
	}
	if err != nil {
		return d, fmt.Errorf("%w: %w", ErrNotWritable, err)
	}
	return d, nil
}

// Retry finds out whether a folder that could not be written, for want of space
// for example, now can be. It is an error if its lock could not be taken: another
// process may have written meanwhile what this one has not seen.
func (d *Dir) Retry() error {
	if d.lock == nil {
		return fmt.Errorf("writing state folder %q: it was opened without its lock", d.path)
	}
	d.readOnly = false
	if err := d.probe(); err != nil {
		d.readOnly = true
		return err
	}
	return nil
}

// advise adds to an error what to do about it.
func advise(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: give the folder and all in it to the user that this process runs as", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: put the folder on a volume that can be written, with state_dir= in the opamp: URI or with %s", err, EnvStateDir)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: free some space", err)
	default:
		return err
	}
}

// OpenReadOnly opens an existing folder without taking the lock. The error is
// [fs.ErrNotExist] if there is none. The caller must Close the result.
func OpenReadOnly(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	return &Dir{files: diskFiles{root}, path: dir, readOnly: true}, nil
}

// Lock returns the file that holds the lock. It is Dir's.
func (d *Dir) Lock() *os.File { return d.lock }

// Path returns the folder's path.
func (d *Dir) Path() string { return d.path }

// Close releases the lock and the folder.
func (d *Dir) Close() error {
	var errs []error
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(append(errs, d.files.Close())...)
}

// probe proves that the folder can be written, so that a full disk or a wrong
// owner shows at start and not at the first offer, and clears leftovers.
func (d *Dir) probe() error {
	if err := d.clear("."); err != nil {
		return fmt.Errorf("removing the leftovers of interrupted writes: %w", err)
	}
	if err := d.Write("probe", []byte("the folder can be written\n")); err != nil {
		return err
	}
	return d.Remove("probe")
}

// clear removes the leftovers in folder and below.
func (d *Dir) clear(folder string) error {
	entries, err := d.files.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case e.IsDir():
			err = d.clear(name)
		case strings.HasSuffix(name, tempSuffix):
			err = d.files.Remove(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Write makes data the durable content of the record name, a slash-separated
// path of at most two elements below the folder. When it returns nil the content
// survives a power cut. When it returns an error, and when the process or the
// machine dies meanwhile, the content is the former or data, and never a mix.
// The file has mode 0600 and its folder 0700.
func (d *Dir) Write(name string, data []byte) error { return d.replace(name, data, false) }

// Replace is Write, and keeps the former content, if it was intact, as the
// record's previous generation, for [Dir.Previous]. One generation is kept. At
// every moment one of the two can be read.
func (d *Dir) Replace(name string, data []byte) error { return d.replace(name, data, true) }

func (d *Dir) replace(name string, data []byte, keep bool) error {
	if d.readOnly {
		return fmt.Errorf("writing record %q: %w", name, fs.ErrPermission)
	}
	if err := d.write(name, seal(data), keep); err != nil {
		return fmt.Errorf("writing record %q in %q: %w", name, d.path, err)
	}
	return nil
}

// step returns the failpoint of a step of writing name. All records of a folder
// have one in common, since they are named after their content.
func step(name, what string) error {
	subject, _, _ := strings.Cut(name, "/")
	return failpoint.Hit("statedir." + what + ":" + subject)
}

func (d *Dir) write(name string, data []byte, keep bool) (err error) {
	folder := path.Dir(name)
	if folder != "." {
		if err := d.makeFolder(folder); err != nil {
			return err
		}
	}
	temp := name + tempSuffix
	if err := d.create(temp, data, func(what string) error { return step(name, what) }); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// A leftover that cannot be removed now is removed by the next Open.
			_ = d.files.Remove(temp)
		}
	}()
	if keep {
		if err := step(name, "keep"); err != nil {
			return err
		}
		if err := d.keepFormer(name); err != nil {
			return fmt.Errorf("keeping the former content: %w", err)
		}
	}
	if err := step(name, "rename"); err != nil {
		return err
	}
	if err := d.files.Rename(temp, name); err != nil {
		return err
	}
	if err := step(name, "syncfolder"); err != nil {
		return err
	}
	if err := d.files.SyncFolder(folder); err != nil {
		return err
	}
	return step(name, "done")
}

// makeFolder makes a folder for records. What is there and is no folder was not
// put there by us.
func (d *Dir) makeFolder(folder string) error {
	if err := step(folder, "mkdir"); err != nil {
		return err
	}
	if info, err := d.files.Lstat(folder); err == nil && !info.IsDir() {
		if _, err := d.MoveAside(folder); err != nil {
			return err
		}
	}
	if err := d.files.MkdirAll(folder); err != nil {
		return err
	}
	// Each time: the process that made it may not have come this far.
	return d.files.SyncFolder(path.Dir(folder))
}

// create makes the file name with the durable content data. It leaves no file
// behind if it fails.
func (d *Dir) create(name string, data []byte, step func(what string) error) error {
	if err := step("create"); err != nil {
		return err
	}
	f, err := d.files.Create(name)
	if errors.Is(err, fs.ErrExist) {
		// A leftover, or a link that somebody planted.
		if err := d.files.Remove(name); err != nil {
			return err
		}
		f, err = d.files.Create(name)
	}
	if err != nil {
		return err
	}
	if err := fill(f, data, step); err != nil {
		_ = d.files.Remove(name) // if that fails too, the next Open does it
		return err
	}
	return nil
}

// fill writes the file and closes it, whatever happens.
func fill(f file, data []byte, step func(what string) error) error {
	write := func() error {
		if err := step("write"); err != nil {
			return err
		}
		if n, err := f.Write(data); err != nil || n < len(data) {
			return cmp.Or(err, io.ErrShortWrite)
		}
		if err := step("sync"); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return step("close")
	}
	return errors.Join(write(), f.Close())
}

// keepFormer makes the record's content that of its previous generation too. It
// needs no sync of its own: whichever of the renames is lost with the power,
// both names have a content that was durable before.
func (d *Dir) keepFormer(name string) error {
	former, err := d.read(name)
	if err != nil {
		return nil //nolint:nilerr // there is none, or none that is worth more than the generation before
	}
	previous, temp := name+previousSuffix, name+previousSuffix+tempSuffix
	if err := d.removeFile(temp); err != nil {
		return err
	}
	if err := d.files.Link(name, temp); err != nil {
		// Some file systems have no hard links.
		if copyErr := d.create(temp, seal(former), func(string) error { return nil }); copyErr != nil {
			return errors.Join(err, copyErr)
		}
	}
	// This does nothing if both are names of one file already, which is so after
	// a crash between this rename and the record's; the next write, or the next
	// Open, removes the superfluous name.
	return d.files.Rename(temp, previous)
}

func (d *Dir) removeFile(name string) error {
	if err := d.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Read returns the content of the record name. The error is [fs.ErrNotExist]
// if there is none, [ErrCorrupt] if it was damaged and [ErrVersion] if it is of
// a later version. Any other error says nothing about the content, which may be
// readable at another time. The caller owns the result.
func (d *Dir) Read(name string) ([]byte, error) {
	data, err := d.read(name)
	if err != nil {
		return nil, advise(fmt.Errorf("reading record %q in %q: %w", name, d.path, err))
	}
	return data, nil
}

// Previous returns the content that the record name had before the latest
// [Dir.Replace], with the errors of Read. It is for a record that is damaged.
func (d *Dir) Previous(name string) ([]byte, error) { return d.Read(PreviousName(name)) }

// PreviousName returns the name of the record name's previous generation.
func PreviousName(name string) string { return name + previousSuffix }

func (d *Dir) read(name string) ([]byte, error) {
	if folder := path.Dir(name); folder != "." {
		if info, err := d.files.Lstat(folder); err != nil {
			return nil, err
		} else if !info.IsDir() {
			return nil, fmt.Errorf("%w: %q is not a folder", ErrCorrupt, folder)
		}
	}
	info, err := d.files.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, fmt.Errorf("%w: not a regular file of at most %d bytes", ErrCorrupt, maxRecord)
	}
	sealed, err := d.files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return unseal(sealed)
}

// Remove deletes the record name; it is no error if there is none.
func (d *Dir) Remove(name string) error {
	if d.readOnly {
		return fmt.Errorf("removing record %q: %w", name, fs.ErrPermission)
	}
	if err := d.removeFile(name); err != nil {
		return fmt.Errorf("removing record %q in %q: %w", name, d.path, err)
	}
	return nil
}

// List returns the names of the regular files in folder ("." for the top),
// sorted; none if it does not exist or is no folder.
func (d *Dir) List(folder string) ([]string, error) {
	info, err := d.files.Lstat(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = d.files.ReadDir(folder)
	}
	if err != nil {
		return nil, fmt.Errorf("listing %q in %q: %w", folder, d.path, err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// MoveAside renames the record name so that it is out of the way but kept for
// an operator, and returns its new name. The last few are kept. If what should
// be the record's folder is none, that is moved instead.
func (d *Dir) MoveAside(name string) (string, error) {
	if d.readOnly {
		return "", fmt.Errorf("moving record %q aside: %w", name, fs.ErrPermission)
	}
	if folder := path.Dir(name); folder != "." {
		if info, err := d.files.Lstat(folder); err == nil && !info.IsDir() {
			name = folder
		}
	}
	aside := name + corruptSuffix + "." + strconv.Itoa(maxCorrupt)
	for i := 1; i < maxCorrupt; i++ {
		free := name + corruptSuffix + "." + strconv.Itoa(i)
		if _, err := d.files.Lstat(free); errors.Is(err, fs.ErrNotExist) {
			aside = free
			break
		}
	}
	if err := d.files.Rename(name, aside); err != nil {
		return "", fmt.Errorf("moving corrupt record %q in %q aside: %w", name, d.path, err)
	}
	if err := d.files.SyncFolder(path.Dir(name)); err != nil {
		return "", fmt.Errorf("moving corrupt record %q in %q aside: %w", name, d.path, err)
	}
	return aside, nil
}

func seal(data []byte) []byte {
	sum := sha256.Sum256(data)
	out := make([]byte, 0, len(header)+2*len(sum)+1+len(data))
	out = append(out, header...)
	out = hex.AppendEncode(out, sum[:])
	out = append(out, '\n')
	return append(out, data...)
}

func unseal(sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte(header))
	if !ok {
		return nil, notOurs(sealed)
	}
	sum, data, ok := bytes.Cut(rest, []byte{'\n'})
	if !ok {
		return nil, fmt.Errorf("%w: truncated", ErrCorrupt)
	}
	want := sha256.Sum256(data)
	if string(sum) != hex.EncodeToString(want[:]) {
		return nil, fmt.Errorf("%w: checksum mismatch", ErrCorrupt)
	}
	return data, nil
}

// notOurs tells a record of a later version from a damaged one. The checksum of
// all later versions is that of the header before it and of the content, so that
// a damaged version is not taken for a later one.
func notOurs(sealed []byte) error {
	line, data, _ := bytes.Cut(sealed, []byte{'\n'})
	number, sum, ok := bytes.Cut(bytes.TrimPrefix(line, []byte(magic)), []byte(algorithm))
	n, err := strconv.Atoi(string(number))
	if !ok || err != nil || n < 2 {
		return fmt.Errorf("%w: unknown header", ErrCorrupt)
	}
	h := sha256.New()
	h.Write(line[:len(line)-len(sum)])
	h.Write(data)
	if string(sum) != hex.EncodeToString(h.Sum(nil)) {
		return fmt.Errorf("%w: unknown header", ErrCorrupt)
	}
	return fmt.Errorf("%w: its format is %d, and this program knows formats up to %s", ErrVersion, n, version)
}
