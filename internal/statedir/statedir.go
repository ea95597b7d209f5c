package statedir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// ErrCorrupt is returned for a record whose checksum, header or length does
// not match its content.
var ErrCorrupt = errors.New("record is corrupt")

const (
	// header starts every record; the number is the format's version.
	header = "otelcol-opamp-state 1 sha256 "
	// tempSuffix marks a write that has not been renamed yet; such files are
	// leftovers of a crash and are removed by Open.
	tempSuffix = ".tmp"
	// corruptSuffix marks records that were moved aside.
	corruptSuffix = ".corrupt"
	// maxRecord bounds what is read into memory, in bytes: the largest offer
	// the session accepts (16 MiB), as base64 with room to spare. A larger
	// file is not one of ours.
	maxRecord = 32 << 20
	// maxCorrupt is how many corrupt versions of one record are kept for an
	// operator to look at; more would let a broken disk fill the folder.
	maxCorrupt = 5
)

// Dir is one agent's folder. Its methods must not be called concurrently; the
// agent's goroutine owns it.
type Dir struct {
	root     *os.Root
	path     string
	lock     *os.File // nil when read-only
	readOnly bool
}

// Open creates the folder if needed (0700, its parents too), takes its lock and
// removes what a crash left behind. It returns a [LockedError] if another
// process owns the folder. The caller must Close the result.
//
// Inherited is the result of [Dir.Lock] in the process's former self, if it was
// re-executed; nil otherwise. Open takes it over.
func Open(dir string, inherited *os.File) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating state folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	lock, err := acquireLock(root, dir, inherited)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	d := &Dir{root: root, path: dir, lock: lock}
	if err := d.probe(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenReadOnly opens an existing folder without taking the lock. The error is
// [fs.ErrNotExist] if there is none. The caller must Close the result.
func OpenReadOnly(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	return &Dir{root: root, path: dir, readOnly: true}, nil
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
	return errors.Join(append(errs, d.root.Close())...)
}

// probe proves that the folder can be written, so that a full disk or a wrong
// owner shows at start and not at the first offer, and clears leftovers.
func (d *Dir) probe() error {
	err := fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(name, tempSuffix) {
			return err
		}
		return d.root.Remove(name)
	})
	if err != nil {
		return fmt.Errorf("removing the leftovers of interrupted writes: %w", err)
	}
	if err := d.Write("probe", []byte("the folder can be written\n")); err != nil {
		return err
	}
	return d.Remove("probe")
}

// Write makes data the durable content of the record name, a slash-separated
// path below the folder. When it returns nil the content survives a power cut;
// when it returns an error the former content is still there. The file has mode
// 0600 and its folder 0700.
func (d *Dir) Write(name string, data []byte) error {
	if d.readOnly {
		return fmt.Errorf("writing record %q: %w", name, fs.ErrPermission)
	}
	if err := d.write(name, seal(data)); err != nil {
		return fmt.Errorf("writing record %q in %q: %w", name, d.path, err)
	}
	return nil
}

func (d *Dir) write(name string, data []byte) (err error) {
	folder := path.Dir(name)
	if folder != "." {
		if err := d.root.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	temp := name + tempSuffix
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The former content is untouched; a leftover that cannot be
			// removed now is removed by the next Open.
			_ = d.root.Remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := d.root.Rename(temp, name); err != nil {
		return err
	}
	return syncFolder(d.root, folder)
}

// Read returns the content of the record name. The error is [fs.ErrNotExist]
// if there is none and [ErrCorrupt] if it was damaged. The caller owns the
// result.
func (d *Dir) Read(name string) ([]byte, error) {
	data, err := d.read(name)
	if err != nil {
		return nil, fmt.Errorf("reading record %q in %q: %w", name, d.path, err)
	}
	return data, nil
}

func (d *Dir) read(name string) ([]byte, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, fmt.Errorf("%w: not a regular file of at most %d bytes", ErrCorrupt, maxRecord)
	}
	sealed, err := d.root.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return unseal(sealed)
}

// Remove deletes the record name; it is no error if there is none.
func (d *Dir) Remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing record %q in %q: %w", name, d.path, err)
	}
	return nil
}

// List returns the names of the regular files in folder ("." for the top),
// sorted; none if it does not exist.
func (d *Dir) List(folder string) ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
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
// an operator, and returns its new name. The last few are kept.
func (d *Dir) MoveAside(name string) (string, error) {
	aside := name + corruptSuffix + "." + strconv.Itoa(maxCorrupt)
	for i := 1; i < maxCorrupt; i++ {
		free := name + corruptSuffix + "." + strconv.Itoa(i)
		if _, err := d.root.Lstat(free); errors.Is(err, fs.ErrNotExist) {
			aside = free
			break
		}
	}
	if err := d.root.Rename(name, aside); err != nil {
		return "", fmt.Errorf("moving corrupt record %q in %q aside: %w", name, d.path, err)
	}
	return aside, syncFolder(d.root, path.Dir(name))
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
		return nil, fmt.Errorf("%w: unknown header", ErrCorrupt)
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
