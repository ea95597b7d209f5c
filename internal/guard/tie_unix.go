//go:build unix && !linux

package guard

import "syscall"

// childAttributes give the child a process group of its own, so that what it
// leaves can be found.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// followGuard reports whether this process is the child of a guard. To be told of
// a parent's death is a matter of Linux.
func followGuard() bool { return Child() }

// releasePages is a matter of Linux: nobody knows which pages there are elsewhere.
func releasePages() {}
