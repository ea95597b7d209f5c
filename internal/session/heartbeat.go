package session

import (
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/open-telemetry/opamp-go/client"
)

// heartbeats is a WebSocket client's own interval between heartbeats. opamp-go
// takes an offered interval of 0 for "never", although an offer that has nothing
// to say about heartbeats has that value too, and it neither shows the value nor
// lets anybody set it. So this reaches into the client; a test pins what it finds
// there.
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

// keepAfter is the time after a message from the server in which the client is
// done with it.
const keepAfter = 100 * time.Millisecond

// keepHeartbeat makes heartbeats go on that a message of the server's has ended.
func (s *Session) keepHeartbeat() {
	if s.heartbeats.set == nil || !s.looking.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(keepAfter, func() {
		s.looking.Store(false)
		if now := s.heartbeats.interval(); now != 0 {
			s.lastHeartbeat.Store(int64(now))
			return
		}
		_ = s.heartbeats.set(time.Duration(s.lastHeartbeat.Load())) // it only refuses what is negative
	})
}
