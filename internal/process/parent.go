package process

import "errors"

// ErrForeignParent is returned by [FindParent] if the parent of this process
// lives in another PID namespace: the IDs that are given to it mean nothing here.
var ErrForeignParent = errors.New("the parent of this process is in another PID namespace, where its ID cannot be looked up: run both in one")

// ErrNotTold is returned by [TellToEnd] where a process cannot send itself a
// signal.
var ErrNotTold = errors.New("this system has no signal that ends a process in order")
