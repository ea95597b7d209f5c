package statedir

import "golang.org/x/sys/unix"

// Volatile returns why what is kept at path, which must exist, does not last as
// long as a disk does: a few words such as "it is in memory (tmpfs)". It is empty
// if there is no sign of that, which proves nothing: a container's layer may be
// of any file system. On other systems than Linux it is always empty.
func Volatile(path string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return "" // whoever uses the folder finds out more
	}
	switch int64(s.Type) { //nolint:unconvert // its type depends on the architecture
	case unix.TMPFS_MAGIC:
		return "it is in memory (tmpfs)"
	case unix.RAMFS_MAGIC:
		return "it is in memory (ramfs)"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "it is in a container's layer (overlayfs)"
	default:
		return ""
	}
}
