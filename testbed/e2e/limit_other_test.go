//go:build unix && !linux

package e2e_test

// limitMemory skips the test.
func (c *collector) limitMemory(uint64) {
	c.w.t.Helper()
	c.w.t.Skip("the memory of another process cannot be limited on this system")
}
