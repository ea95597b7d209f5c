package session

import (
	"net"
	"time"

	"github.com/open-telemetry/opamp-go/client"
)

// HeartbeatsOf reports what was found in the client.
func HeartbeatsOf(c client.OpAMPClient) (set, known bool) {
	h := heartbeatsOf(c)
	return h.set != nil, h.milliseconds != nil
}

// Finds reports what was found in a client.
func Finds(c client.OpAMPClient) (dialer, state bool) { return dialerOf(c) != nil, stateOf(c) != nil }

// Times are the durations that tests shorten.
type Times struct {
	Request, Ping, Silence, First, Longest, Stable, Busy, MostBusy time.Duration
}

func (t Times) times() times {
	return times{
		request: t.Request, ping: t.Ping, silence: t.Silence,
		first: t.First, longest: t.Longest, stable: t.Stable,
		busy: t.Busy, mostBusy: t.MostBusy,
	}
}

// OnFetch makes the session call f while the client prepares a message.
func (s *Settings) OnFetch(f func()) { s.onFetch = f }

// DefaultTimes are those of sessions outside tests.
func DefaultTimes() Times {
	d := defaultTimes
	return Times{
		Request: d.request, Ping: d.ping, Silence: d.silence,
		First: d.first, Longest: d.longest, Stable: d.stable,
		Busy: d.busy, MostBusy: d.mostBusy,
	}
}

// SetTimes sets the durations of a session.
func (s *Settings) SetTimes(t Times) {
	in := t.times()
	s.times = &in
}

// What a session tells and asks a [Pace].

func (p *Pace) Use(endpoint string, t Times)             { p.use(endpoint, t.times()) }
func (p *Pace) Connected()                               { p.connected() }
func (p *Pace) Fail()                                    { p.fail() }
func (p *Pace) Left()                                    { p.left() }
func (p *Pace) LeaveAlone(d time.Duration) time.Duration { return p.leaveAlone(d) }
func (p *Pace) Vary(d time.Duration)                     { p.vary(d) }
func (p *Pace) Next() time.Duration                      { return p.next() }

// Dialer is how sessions dial.
var Dialer = dialer

// Counted returns conn as sessions use it.
func Counted(conn net.Conn) net.Conn { return counted{conn, &Counters{}, func() {}} }

// HeartbeatInterval is the one that the client goes by.
func (s *Session) HeartbeatInterval() time.Duration { return heartbeatsOf(s.client).interval() }

// SettleAfter is the time after which a message is told that brought no offer.
const SettleAfter = settleAfter
