//go:build !linux && !darwin && !freebsd

package fault

// segv dereferences nil: there is no portable way to a fault that the runtime
// does not turn into a panic.
func segv() {
	var p *int
	*p = 1 //nolint:govet // the feature
}
