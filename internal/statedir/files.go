package statedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// files are the operations of a [Dir] on its folder: those of [os.Root], with a
// way to make them durable. Names are slash-separated and below the folder. None
// follows a symbolic link in the last element.
type files interface {
	// MkdirAll makes the folder and its parents, of mode 0700.
	MkdirAll(folder string) error
	// Create makes an empty file of mode 0600. The error is [fs.ErrExist] if
	// there is anything of that name.
	Create(name string) (file, error)
	// Link gives the file a second name, which must not exist.
	Link(name, second string) error
	// Rename replaces what is at to. It does nothing if both are names of one
	// file.
	Rename(from, to string) error
	Remove(name string) error
	Lstat(name string) (fs.FileInfo, error)
	ReadFile(name string) ([]byte, error)
	// ReadDir returns the entries of the folder, sorted by name.
	ReadDir(folder string) ([]fs.DirEntry, error)
	// SyncFolder makes all that was done to the entries of the folder durable.
	SyncFolder(folder string) error
	Close() error
}

// file is a file that is being written. Its content is durable after Sync, its
// name after SyncFolder.
type file interface {
	Write(data []byte) (int, error)
	Sync() error
	Close() error
}

// diskFiles are the files of a folder on disk.
type diskFiles struct{ root *os.Root }

func (d diskFiles) MkdirAll(folder string) error { return d.root.MkdirAll(folder, 0o700) }

func (d diskFiles) Create(name string) (file, error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d diskFiles) Link(name, second string) error         { return d.root.Link(name, second) }
func (d diskFiles) Rename(from, to string) error           { return d.root.Rename(from, to) }
func (d diskFiles) Remove(name string) error               { return d.root.Remove(name) }
func (d diskFiles) Lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }
func (d diskFiles) ReadFile(name string) ([]byte, error)   { return d.root.ReadFile(name) }
func (d diskFiles) Close() error                           { return d.root.Close() }

func (d diskFiles) ReadDir(folder string) ([]fs.DirEntry, error) {
	return fs.ReadDir(d.root.FS(), folder)
}

func (d diskFiles) SyncFolder(folder string) error { return syncFolder(d.root, folder) }

// makeFolder makes dir and its parents, durably.
func makeFolder(dir string) error {
	var made []string
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		made = append(made, at)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, folder := range made {
		parent, err := os.OpenRoot(filepath.Dir(folder))
		if errors.Is(err, fs.ErrPermission) {
			continue // it may be written and not read; then it cannot be synced
		}
		if err != nil {
			return err
		}
		if err := errors.Join(syncFolder(parent, "."), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}
