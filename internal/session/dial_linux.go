package session

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnanswered makes the kernel give up a connection whose data nobody
// acknowledges; by default it tries for a quarter of an hour.
func limitUnanswered(_, _ string, raw syscall.RawConn) error {
	var set error
	err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered/time.Millisecond))
	})
	return errors.Join(err, set)
}
