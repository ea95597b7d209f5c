package statedir

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing/fstest"
	"time"
)

// memFiles are [files] in memory that know what would be left after a power cut.
// It promises what POSIX does and no more: the content of a file is durable after
// its Sync, what was done to a folder's entries after SyncFolder. Until then any
// of it may be lost, in any combination, and contents may be torn.
type memFiles struct {
	folders map[string]*memFolder // by path; "." is always there
	// noLinks: hard links are not supported.
	noLinks bool
}

type memFolder struct {
	entries map[string]*memNode
	durable map[string]*memNode
	// pending are the changes of entries that are not durable yet.
	pending []memChange
}

// memChange is one atomic change of a folder: to is set to node, or removed if
// node is nil; from, if not empty, is removed.
type memChange struct {
	to, from string
	node     *memNode
}

// memNode is a file; that of a folder has a path.
type memNode struct {
	folder string
	data   []byte
	dirty  bool // data is not durable
}

func newMemFiles() *memFiles {
	return &memFiles{folders: map[string]*memFolder{".": newMemFolder()}}
}

func newMemFolder() *memFolder {
	return &memFolder{entries: map[string]*memNode{}, durable: map[string]*memNode{}}
}

func memError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (m *memFiles) at(op, name string) (*memFolder, string, error) {
	folder := m.folders[path.Dir(name)]
	if folder == nil {
		return nil, "", memError(op, name, fs.ErrNotExist)
	}
	return folder, path.Base(name), nil
}

func (m *memFiles) node(op, name string) (*memNode, error) {
	folder, base, err := m.at(op, name)
	if err != nil {
		return nil, err
	}
	n := folder.entries[base]
	if n == nil {
		return nil, memError(op, name, fs.ErrNotExist)
	}
	return n, nil
}

func (f *memFolder) change(c memChange) {
	c.apply(f.entries)
	f.pending = append(f.pending, c)
}

func (c memChange) apply(entries map[string]*memNode) {
	if c.node == nil {
		delete(entries, c.to)
		return
	}
	if c.from != "" && entries[c.from] == c.node {
		delete(entries, c.from)
	}
	entries[c.to] = c.node
}

func (m *memFiles) MkdirAll(name string) error {
	folder, base, err := m.at("mkdir", name)
	if err != nil {
		return err
	}
	if m.folders[name] == nil {
		m.folders[name] = newMemFolder()
		folder.change(memChange{to: base, node: &memNode{folder: name}})
	}
	return nil
}

func (m *memFiles) Create(name string) (file, error) {
	folder, base, err := m.at("create", name)
	if err != nil {
		return nil, err
	}
	if folder.entries[base] != nil {
		return nil, memError("create", name, fs.ErrExist)
	}
	n := &memNode{dirty: true}
	folder.change(memChange{to: base, node: n})
	return n, nil
}

func (n *memNode) Write(data []byte) (int, error) {
	n.data, n.dirty = append(n.data, data...), true
	return len(data), nil
}

func (n *memNode) Sync() error {
	n.dirty = false
	return nil
}

func (*memNode) Close() error { return nil }

func (m *memFiles) Link(name, second string) error {
	if m.noLinks {
		return memError("link", name, syscall.EPERM)
	}
	n, err := m.node("link", name)
	if err != nil {
		return err
	}
	folder, base, err := m.at("link", second)
	if err != nil {
		return err
	}
	if folder.entries[base] != nil {
		return memError("link", second, fs.ErrExist)
	}
	folder.change(memChange{to: base, node: n})
	return nil
}

func (m *memFiles) Rename(from, to string) error {
	n, err := m.node("rename", from)
	if err != nil {
		return err
	}
	folder, base, err := m.at("rename", to)
	if err != nil {
		return err
	}
	if folder.entries[base] == n {
		return nil
	}
	folder.change(memChange{to: base, from: path.Base(from), node: n})
	return nil
}

func (m *memFiles) Remove(name string) error {
	if _, err := m.node("remove", name); err != nil {
		return err
	}
	folder, base, err := m.at("remove", name)
	if err != nil {
		return err
	}
	folder.change(memChange{to: base})
	return nil
}

func (m *memFiles) view() fstest.MapFS {
	view := fstest.MapFS{}
	for dir, folder := range m.folders {
		for name, n := range folder.entries {
			f := &fstest.MapFile{Data: n.data, Mode: 0o600, ModTime: time.Unix(0, 0)}
			if n.folder != "" {
				f.Mode = 0o700 | fs.ModeDir
			}
			view[path.Join(dir, name)] = f
		}
	}
	return view
}

func (m *memFiles) Lstat(name string) (fs.FileInfo, error)       { return m.view().Stat(name) }
func (m *memFiles) ReadFile(name string) ([]byte, error)         { return m.view().ReadFile(name) }
func (m *memFiles) ReadDir(folder string) ([]fs.DirEntry, error) { return m.view().ReadDir(folder) }

func (m *memFiles) SyncFolder(name string) error {
	folder := m.folders[name]
	if folder == nil {
		return memError("sync", name, fs.ErrNotExist)
	}
	folder.durable, folder.pending = maps.Clone(folder.entries), nil
	return nil
}

func (*memFiles) Close() error { return nil }

// choices returns the number of changes that are not durable yet: there are
// 2^choices combinations of what is left of them after a power cut.
func (m *memFiles) choices() int {
	n := 0
	for _, folder := range m.folders {
		n += len(folder.pending)
	}
	return n
}

// torn says what is left of a content that was not synced.
type torn string

const (
	tornEmpty   torn = "empty"
	tornHalf    torn = "half"
	tornGarbage torn = "garbage"
	tornFull    torn = "full"
)

func (t torn) of(data []byte) []byte {
	switch t {
	case tornEmpty:
		return nil
	case tornHalf:
		return data[:len(data)/2]
	case tornGarbage:
		return []byte(strings.Repeat("\x00", len(data)))
	case tornFull:
	}
	return data
}

// powerCut returns what is left after a power cut: of the changes that are not
// durable those whose bit is set in survive, which are taken in the order of the
// folders' names.
func (m *memFiles) powerCut(survive uint, t torn) *memFiles {
	left := &memFiles{folders: map[string]*memFolder{}, noLinks: m.noLinks}
	nodes := map[*memNode]*memNode{} // second names stay names of one file
	for _, name := range slices.Sorted(maps.Keys(m.folders)) {
		folder := m.folders[name]
		entries := maps.Clone(folder.durable)
		for _, c := range folder.pending {
			if survive&1 != 0 {
				c.apply(entries)
			}
			survive >>= 1
		}
		for base, n := range entries {
			if nodes[n] == nil {
				nodes[n] = &memNode{folder: n.folder, data: slices.Clone(n.data)}
				if n.dirty {
					nodes[n].data = slices.Clone(t.of(n.data))
				}
			}
			entries[base] = nodes[n]
		}
		left.folders[name] = &memFolder{entries: entries, durable: maps.Clone(entries)}
	}
	for name := range left.folders {
		if folder, base, err := left.at("", name); name != "." && (err != nil || folder.entries[base] == nil) {
			delete(left.folders, name)
		}
	}
	return left
}
