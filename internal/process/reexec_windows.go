package process

// CanReexec reports whether [Reexec] can work on this system.
const CanReexec = false

func closeOnExec(uintptr) {}

// Reexec returns [ErrNoReexec].
func Reexec(Successor) error { return ErrNoReexec }
