// Package guard makes a process the parent of the Collector: it starts the same
// executable with the same arguments, and starts it again when it dies (RFC
// 0003). It knows nothing of configurations.
package guard

import (
	"os"
	"strconv"
	"sync/atomic"
)

// Env names the guard to its child. The variable counts only in a process whose
// parent has the PID that it holds: a copy of it in a grandchild means nothing.
const Env = "OTELCOL_OPAMP_GUARD_PID"

// active says that this process is a guard; it is set once.
var active atomic.Bool

// Active reports whether this process is a guard.
func Active() bool { return active.Load() }

// Child reports whether this process is the child of a guard.
func Child() bool {
	pid := os.Getenv(Env)
	return pid != "" && pid == strconv.Itoa(os.Getppid())
}

// Become makes this process a guard. It returns only where the Collector is to
// run in this very process: in the child of a guard, and on systems without one.
// It must be called before anything is started that the child needs for itself.
func Become() {
	if !followGuard() {
		become()
	}
}
