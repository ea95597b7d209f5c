package guard

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releasePages gives back the pages of files that are mapped read-only, such as
// the executable's code: the initialization of a hundred packages has touched
// most of it, and waiting needs next to none. What is needed again is mapped
// again, from memory that the child uses too.
func releasePages() {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return // nothing depends on it
	}
	for _, r := range releasable(string(maps)) {
		// A page that cannot be given back stays.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED)
	}
}

// addresses are those from one up to another.
type addresses struct{ from, to uintptr }

// releasable finds, in what the kernel says of a process's memory, what can be
// read from a file again: private mappings of files without a page that was
// written to. A linker that writes to pages before it protects them leaves such.
func releasable(smaps string) []addresses {
	var found []addresses
	var mapping addresses
	ofFile := false
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) >= 6 && strings.HasPrefix(fields[1], "r-") { // from-to permissions offset device inode path
			from, to, _ := strings.Cut(fields[0], "-")
			low, err := strconv.ParseUint(from, 16, 64)
			high, err2 := strconv.ParseUint(to, 16, 64)
			ofFile = err == nil && err2 == nil && fields[1][3] == 'p' && fields[4] != "0"
			mapping = addresses{uintptr(low), uintptr(high)}
			continue
		}
		if len(fields) == 0 {
			continue
		}
		switch {
		case !strings.HasSuffix(fields[0], ":"): // another mapping
			ofFile = false
		case fields[0] == "Anonymous:" && ofFile && fields[1] == "0":
			found = append(found, mapping)
		}
	}
	return found
}
