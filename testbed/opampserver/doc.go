// Package opampserver is a scriptable OpAMP server for tests and development.
//
// It serves WebSocket and plain HTTP on one port, keeps the state of every
// agent the way a real server does (merging compressed status reports, asking
// for the full state after a gap in the sequence numbers), and records every
// message with its time. A test sets what is offered, holds answers back, drops
// or refuses connections, and waits for messages or statuses.
//
// Every method of [Server] is safe for concurrent use. No method calls back
// into the caller while it holds a lock, except [Settings.Accept], which is
// called from the connection's own goroutine without any lock. Protobuf
// messages handed out by a Server are shared: they must not be modified.
package opampserver
