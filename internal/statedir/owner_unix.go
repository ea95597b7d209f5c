//go:build unix

package statedir

import (
	"os"
	"syscall"
)

// ForeignOwner returns the IDs of the user that the folder at path belongs to, and
// of the one whose rights this process has. Foreign reports whether these are two;
// it is false if the folder cannot be looked at.
func ForeignOwner(path string) (owner, user int, foreign bool) {
	user = os.Geteuid()
	info, err := os.Stat(path)
	if err != nil {
		return 0, user, false // whoever uses the folder finds out more
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, user, false
	}
	return int(stat.Uid), user, int(stat.Uid) != user
}
