//go:build unix && !linux

package process

// younger is not known here: an ID that was given away again is taken for the
// process that had it first.
func younger(int) bool { return false }
