package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// maxText bounds the files that people write, or are written for people, in
// bytes: the state of an agent with a full history takes some 100 KiB.
const maxText = 1 << 20

// WriteText makes data the content of the plain file name, for people to read.
// Readers see the former content or data, never a mix; it may not survive a
// power cut.
func (d *Dir) WriteText(name string, data []byte) error {
	if d.readOnly {
		return fmt.Errorf("writing %q: %w", name, fs.ErrPermission)
	}
	if err := d.writeText(name, data); err != nil {
		return fmt.Errorf("writing %q in %q: %w", name, d.path, err)
	}
	return nil
}

func (d *Dir) writeText(name string, data []byte) error {
	temp := name + tempSuffix
	if err := d.files.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := d.files.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.files.Remove(temp))
	}
	return d.files.Rename(temp, name)
}

// ReadText returns the content of the plain file name. The error is
// [fs.ErrNotExist] if there is none.
func (d *Dir) ReadText(name string) ([]byte, error) {
	info, err := d.files.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("looking for %q in %q: %w", name, d.path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxText {
		return nil, fmt.Errorf("reading %q in %q: not a regular file of at most %d bytes", name, d.path, maxText)
	}
	data, err := d.files.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading %q in %q: %w", name, d.path, err)
	}
	return data, nil
}

// Modified returns when an entry of folder was made, removed or renamed last. The
// error is [fs.ErrNotExist] if there is no such folder.
func (d *Dir) Modified(folder string) (time.Time, error) {
	info, err := d.files.Lstat(folder)
	if err != nil {
		return time.Time{}, fmt.Errorf("looking for %q in %q: %w", folder, d.path, err)
	}
	return info.ModTime(), nil
}

// MakeFolder makes the folder name, if it is missing.
func (d *Dir) MakeFolder(name string) error {
	if err := d.files.MkdirAll(name); err != nil {
		return fmt.Errorf("making the folder %q in %q: %w", name, d.path, err)
	}
	return nil
}
