package process

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/windows"
)

// Parent is a process whose end should end this one. It is not safe for
// concurrent use.
type Parent struct {
	// handle keeps the ID from being given away again; zero if the process had
	// ended before.
	handle windows.Handle
}

// FindParent looks for the process with an ID. One that has ended is no error:
// see [Parent.Gone]. The caller must Close it.
func FindParent(pid int) (*Parent, error) {
	handle, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid)) //nolint:gosec // IDs are not negative
	if errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
		return &Parent{}, nil // there is no such process
	}
	if err != nil {
		return nil, fmt.Errorf("looking for process %d: %w", pid, err)
	}
	return &Parent{handle}, nil
}

// Gone reports whether the process has ended.
func (p *Parent) Gone() bool {
	if p.handle == 0 {
		return true
	}
	event, err := windows.WaitForSingleObject(p.handle, 0)
	return err == nil && event == windows.WAIT_OBJECT_0
}

// Close forgets the process. It must not be used any more.
func (p *Parent) Close() {
	if p.handle != 0 {
		_ = windows.CloseHandle(p.handle) // there is nothing that could be done
	}
}

// TellToEnd returns [ErrNotTold].
func TellToEnd(context.Context) error { return ErrNotTold }
