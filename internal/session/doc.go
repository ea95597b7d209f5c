// Package session turns opamp-go's callbacks into events and reports into
// client calls. Nothing above it sees a protobuf.
//
// A [Session] is one client object, from Start to Stop. The client reconnects; a
// [Pace] says when, and outlives sessions. The client calls back on its own
// goroutines, so the functions in [Callbacks] must return at once and must not
// call the session.
package session
