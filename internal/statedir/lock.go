package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// lockName is the file whose lock means ownership of the folder. It is never
// removed: removing it would let two processes lock two different inodes.
const lockName = "lock"

// errLocked is what lockFile returns when another process holds the lock.
var errLocked = errors.New("locked")

// Owner says who holds a folder's lock.
type Owner struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"`
}

// LockedError is returned by [Open] if another process owns the folder.
type LockedError struct {
	Path string
	// Owner is what the owner wrote when it took the lock; zero if unreadable.
	Owner Owner
}

// Error names the owner and says what to do.
func (e *LockedError) Error() string {
	who := "another process"
	if e.Owner.PID != 0 {
		who = fmt.Sprintf("process %d on host %q, started %s", e.Owner.PID, e.Owner.Host, e.Owner.Started.Format(time.RFC3339))
	}
	return fmt.Sprintf("state folder %q is in use by %s: stop it, or give this process a folder of its own with state_dir= in the opamp: URI or with %s",
		e.Path, who, EnvStateDir)
}

// acquireLock takes the lock. Inherited is the lock's file of this process's
// former self; the lock belongs to the open file, so that it was never let go.
func acquireLock(root *os.Root, dir string, inherited *os.File) (*os.File, error) {
	if info, err := root.Lstat(lockName); err == nil && !info.Mode().IsRegular() {
		// A link would be followed, and what it names overwritten.
		return nil, fmt.Errorf("opening the lock of state folder %q: %q is not a regular file: remove it", dir, lockName)
	}
	f, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of state folder %q: %w", dir, err)
	}
	if inherited != nil {
		if sameFile(f, inherited) {
			if err := f.Close(); err != nil {
				return nil, fmt.Errorf("closing the lock of state folder %q: %w", dir, err)
			}
			return inherited, nil
		}
		_ = inherited.Close() // of another folder: nothing was written through it
	}
	if err := lockFile(f); err != nil {
		defer f.Close() //nolint:errcheck // nothing was written through it
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("locking state folder %q: %w", dir, err)
		}
		locked := &LockedError{Path: dir}
		if data, readErr := io.ReadAll(io.LimitReader(f, 4096)); readErr == nil {
			_ = json.Unmarshal(data, &locked.Owner) // the error is complete without it
		}
		return nil, locked
	}
	host, _ := os.Hostname() // only information for a human
	data, err := json.Marshal(Owner{PID: os.Getpid(), Host: host, Started: time.Now().Truncate(time.Second)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("encoding the owner of state folder %q: %w", dir, err), f.Close())
	}
	// On a full disk it stays unnamed; the lock holds all the same.
	_ = rewrite(f, append(data, '\n'))
	return f, nil
}

func sameFile(a, b *os.File) bool {
	one, err1 := a.Stat()
	two, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}

func rewrite(f *os.File, data []byte) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(data, 0)
	return err
}
