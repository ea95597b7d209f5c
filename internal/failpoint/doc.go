// Package failpoint lets a test make a step of the program fail, hang or end the
// process, in a binary that was built with the tag "failpoints".
//
// Without the tag [Hit] does nothing and nothing reads the environment. With it
// the variable OTELCOL_OPAMP_FAILPOINT is read once, at the first Hit: a list,
// separated by commas, of
//
//	name=action[@n]
//
// The name is that of a Hit; a name that ends with "*" stands for all that begin
// with what precedes it, whose hits are then counted together. The actions:
//
//   - kill ends the process with SIGKILL (with exit code 137 on Windows)
//   - error makes Hit return an error, which is [syscall.ENOSPC] for errors.Is
//   - hang blocks the goroutine for ever
//   - panic panics
//
// With @n the action is taken at the n-th hit only, the first being 1. Without
// it, error is taken at every hit and the others at the first.
//
// A list that cannot be read panics at the first Hit: a test that injects
// nothing would pass.
package failpoint
