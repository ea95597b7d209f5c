//go:build !linux

package statedir

// Volatile returns nothing: there is no sign to look for.
func Volatile(string) string { return "" }
