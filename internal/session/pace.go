package session

import (
	"math/rand/v2"
	"sync"
	"time"
)

// times are the durations of this package that tests shorten.
type times struct {
	// request bounds one request over HTTP, with its answer: a server that accepts
	// and never answers must not silence the agent.
	request time.Duration
	// ping is the time between two pings over WebSocket, silence how long none is
	// answered before the server is taken for gone.
	ping, silence time.Duration
	// first is the longest pause after a connection that had lived, and doubles
	// with each attempt up to longest.
	first, longest time.Duration
	// stable is how long a connection must live to be none of these attempts.
	stable time.Duration
	// busy is the pause that a busy server gets which wishes none; mostBusy bounds
	// what it can wish.
	busy, mostBusy time.Duration
}

var defaultTimes = times{
	request: 30 * time.Second,
	// The interval of heartbeats, which proxies are made for; a server may miss
	// two.
	ping: heartbeat, silence: 3 * heartbeat,
	// A server that restarts sees ten thousand agents come back at 5000 per
	// second, which a few cores can take; after two minutes or more at 330 per
	// second at first, since pauses of up to a minute are half as long on average.
	first: 2 * time.Second, longest: time.Minute,
	// Less than the longest pause would not be worth that pause.
	stable: time.Minute,
	// The specification recommends 30 s at least. A server must not be able to
	// silence an agent for days by one message.
	busy: 30 * time.Second, mostBusy: time.Hour,
}

// Pace decides when the next attempt to reach the server is made. The pauses are
// drawn from zero up to a bound that doubles with every attempt ("full jitter"),
// and the bound shrinks only after a connection that lived for a while: a server
// that accepts and then closes is as much in trouble as one that refuses.
//
// A Pace outlives sessions, so that a new one does not start at once what the
// former one was waiting for. The zero value is ready. It serves one session at a
// time and is safe for concurrent use.
type Pace struct {
	mu sync.Mutex // guards everything below
	times
	endpoint string
	failures int       // attempts and short connections since the last that lived
	since    time.Time // of the connection; zero without one
	earliest time.Time // of the next attempt
}

// use makes p serve a session with the server at endpoint. Another server has
// nothing to do with what was learnt of the former.
func (p *Pace) use(endpoint string, t times) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = t
	if p.endpoint != endpoint {
		p.endpoint = endpoint
		p.failures, p.since, p.earliest = 0, time.Time{}, time.Time{}
	}
}

// connected begins a connection.
func (p *Pace) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
}

// answered is for a request over HTTP that the server took.
func (p *Pace) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures, p.earliest = 0, time.Time{}
}

// fail ends an attempt.
func (p *Pace) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.putOffLocked(p.drawLocked())
	p.failures++
}

// left ends a connection that the agent ended, which says nothing about the
// server.
func (p *Pace) left() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.since.IsZero() && time.Since(p.since) >= p.stable {
		p.failures = 0
	}
	p.since = time.Time{}
}

// leaveAlone puts off the next attempt for at least the time that a busy server
// wishes, which may be zero for none, and returns by how long.
func (p *Pace) leaveAlone(wish time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if wish <= 0 {
		wish = p.busy
	}
	// Varied, as in vary.
	pause := min(min(wish, p.mostBusy)+upTo(wish/2), p.mostBusy)
	if wish >= p.mostBusy {
		pause = p.mostBusy - upTo(p.mostBusy/2)
	}
	p.putOffLocked(pause)
	return pause
}

// vary puts off the next attempt by up to half of what the client has waited
// because the server wished it: the agents that were sent away together do not
// come back together.
func (p *Pace) vary(waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.putOffLocked(upTo(min(waited, p.mostBusy) / 2))
}

// draw returns a pause for the attempt that comes, should it fail.
func (p *Pace) draw() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drawLocked()
}

func (p *Pace) drawLocked() time.Duration {
	// 16 doublings are above any longest pause, and overflow nothing.
	return upTo(min(p.longest, p.first<<min(p.failures, 16)))
}

func (p *Pace) putOffLocked(pause time.Duration) {
	if t := time.Now().Add(pause); t.After(p.earliest) {
		p.earliest = t
	}
}

// wait returns when the next attempt may be made, or, with false, when stop is
// closed.
func (p *Pace) wait(stop <-chan struct{}) bool { return sleep(p.next(), stop) }

// waitFraction waits for the rest of a pause of which the client has waited the
// whole seconds.
func (p *Pace) waitFraction(stop <-chan struct{}) { sleep(min(p.next(), time.Second), stop) }

// sleep returns false if stop was closed first.
func sleep(pause time.Duration, stop <-chan struct{}) bool {
	if pause <= 0 {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-stop:
		return false
	case <-timer.C:
		return true
	}
}

// next returns how long the next attempt must wait.
func (p *Pace) next() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.since.IsZero() { // the connection has ended
		if time.Since(p.since) >= p.stable {
			p.failures = 0
		}
		p.since = time.Time{}
		p.putOffLocked(p.drawLocked())
		p.failures++
	}
	return time.Until(p.earliest)
}

// upTo returns a random duration, d at most.
func upTo(d time.Duration) time.Duration {
	return rand.N(d + 1) //nolint:gosec // no secret
}

// pauses is a Pace in the form that opamp-go asks for.
type pauses struct{ *Pace }

// NextBackOff returns the pause after the attempt that comes, should it fail.
func (p pauses) NextBackOff() time.Duration { return p.draw() }

// noPauses leaves the pauses to [Pace.wait], which every attempt passes.
type noPauses struct{}

// NextBackOff returns zero.
func (noPauses) NextBackOff() time.Duration { return 0 }
