//go:build linux || darwin || freebsd

package fault

import (
	"fmt"
	"os"
	"syscall"
)

// segv writes to a page without access rights. A nil pointer would be a Go panic
// that can be recovered; this is a fault that the runtime treats as fatal.
func segv() {
	page, err := syscall.Mmap(-1, 0, os.Getpagesize(), syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("mapping a page to fault on: %v", err))
	}
	page[0] = 1
}
