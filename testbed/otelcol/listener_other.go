//go:build !linux

package otelcol

import "errors"

// ListenerPID returns the ID of the process that listens on the TCP port of an
// address.
func ListenerPID(string) (int, error) { return 0, errors.ErrUnsupported }
