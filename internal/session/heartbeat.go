package session

import (
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/open-telemetry/opamp-go/client"
)

// heartbeats is a WebSocket client's own interval between heartbeats. opamp-go
// takes what is offered at once, and 0 for "never", although an offer that has
// nothing to say about heartbeats has that value too; and it neither shows the
// value nor lets anybody set it. So this reaches into the client; a test pins what
// it finds there.
type heartbeats struct {
	milliseconds *atomic.Int64
	set          func(time.Duration) error
}

// heartbeatsOf returns the client's heartbeats; the zero value if it has none, or
// is not what it is expected to be.
func heartbeatsOf(c client.OpAMPClient) (h heartbeats) {
	// Only fields are looked at, of a struct that is known to have them.
	sender := field(reflect.ValueOf(c), "sender")
	if !sender.IsValid() {
		return heartbeats{}
	}
	setter, ok := reflect.TypeAssert[interface{ SetHeartbeatInterval(time.Duration) error }](sender)
	if !ok {
		return heartbeats{}
	}
	interval := field(sender, "heartbeatIntervalMs")
	if !interval.IsValid() {
		return heartbeats{}
	}
	milliseconds, ok := reflect.TypeAssert[*atomic.Int64](interval.Addr())
	if !ok {
		return heartbeats{}
	}
	return heartbeats{milliseconds: milliseconds, set: setter.SetHeartbeatInterval}
}

// field returns the field of what p points to; the zero value if there is none.
func field(p reflect.Value, name string) reflect.Value {
	if p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	f := p.Elem().FieldByName(name)
	if !f.IsValid() || !f.CanAddr() {
		return reflect.Value{}
	}
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem() //nolint:gosec // the field of a live object
}

// interval returns the time between two heartbeats; 0 for never, or if it is not
// known.
func (h heartbeats) interval() time.Duration {
	if h.milliseconds == nil {
		return 0
	}
	return time.Duration(h.milliseconds.Load()) * time.Millisecond
}

// spreading is the part of an interval by which agents differ, at most. The client
// counts from its last message, so that agents which came back together after a
// restart of the server, or were given a configuration together, would go on
// talking together for ever: half of all within a second, and none for the other
// 28. With a tenth they are even after some ten heartbeats, of which a server gets 5 %
// more, and none later than it was told.
const spreading = 10

// spread returns an interval that is shorter by a random part, the same for the
// life of a session, in whole milliseconds, which is what the client counts.
func spread(interval time.Duration) time.Duration {
	return (interval - upTo(interval/spreading)).Round(time.Millisecond)
}

// settleAfter is the time after a message from the server, without an offer of
// connection settings, in which the client is done with it: it works on it for
// microseconds, and tells nobody when it is done.
const settleAfter = 100 * time.Millisecond

// logIgnored is what the client logs right after it took over an interval from an
// offer for which there is no callback. A test pins it; with another text the
// agent's own interval comes back after [settleAfter].
const logIgnored = "Ignoring Opamp, agent does not have AcceptsOpAMPConnectionSettings capability"

// intervalOf returns a function that gives the client the agent's interval back:
// it takes over what is offered before anybody has accepted the offer.
func intervalOf(c client.OpAMPClient, interval time.Duration) func() {
	if polling, ok := c.(interface{ SetPollingInterval(time.Duration) }); ok {
		return func() { polling.SetPollingInterval(interval) }
	}
	h := heartbeatsOf(c)
	return func() {
		if h.set != nil && h.interval() != interval {
			_ = h.set(interval) // it only refuses what is negative
		}
	}
}
