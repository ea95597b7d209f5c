//go:build !linux

package process

// BootID returns the empty text: only Linux tells.
func BootID() string { return "" }
