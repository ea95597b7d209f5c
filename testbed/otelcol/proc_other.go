//go:build !linux

package otelcol

import "errors"

// RSS is the resident memory in bytes.
func (*Process) RSS() (int64, error) { return 0, errors.ErrUnsupported }

// Threads is the number of threads.
func (*Process) Threads() (int, error) { return 0, errors.ErrUnsupported }

// FDs is the number of open file descriptors.
func (*Process) FDs() (int, error) { return 0, errors.ErrUnsupported }

// Name is the name of the process as the kernel shows it.
func (*Process) Name() (string, error) { return "", errors.ErrUnsupported }

// Children returns the IDs of the direct children.
func (*Process) Children() ([]int, error) { return nil, errors.ErrUnsupported }

// Leftovers returns the IDs of the processes of the session beside the process.
func (*Process) Leftovers() ([]int, error) { return nil, errors.ErrUnsupported }

// killLeftovers does nothing: what is left cannot be found here.
func (p *Process) killLeftovers() error {
	_ = p.hasEnded()
	return nil
}

// Use returns what the process and all living processes of its session take.
func (*Process) Use() (Use, error) { return Use{}, errors.ErrUnsupported }
