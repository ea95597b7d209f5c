package process

// Reexec returns [ErrNoReexec].
func Reexec(Successor) error { return ErrNoReexec }
