package custommessages

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	// maxOutbox is how many messages wait to be sent: what components that send
	// a hundred per second together make in 10 s without a connection. Each is a
	// report of its own, so that a server will not want more.
	maxOutbox = 1000
	// MaxSize is the largest message that may be sent, in bytes: less than half of what a
	// session sends at most (session.maxMessage), for it goes with what else
	// there is to report.
	MaxSize = 2 << 20
	// maxOutboxBytes bounds what waits to be sent: two of the largest messages.
	maxOutboxBytes = 2 * MaxSize
)

// What Send returns.
var (
	ErrFull         = errors.New("the queue of custom messages to the server is full")
	ErrUnregistered = errors.New("capability has already been unregistered")
)

// outgoing is a message that was accepted and not sent yet.
type outgoing struct {
	message Message
	sent    chan struct{}
}

func (o *occupant) send(kind string, data []byte) (chan struct{}, error) {
	m := Message{Capability: o.seat.capability, Type: kind, Data: data}
	if m.size() > MaxSize {
		return nil, fmt.Errorf("sending a custom message of %d bytes: at most %d can be sent", m.size(), MaxSize)
	}
	r := o.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.gone {
		return nil, fmt.Errorf("sending a custom message of capability %q: %w", m.Capability, ErrUnregistered)
	}
	if len(r.outbox) >= maxOutbox || r.outboxBytes+m.size() > maxOutboxBytes {
		if r.room == nil {
			r.room = make(chan struct{})
		}
		return r.room, ErrFull
	}
	m.Data = bytes.Clone(data)
	out := &outgoing{m, make(chan struct{})}
	r.outbox = append(r.outbox, out)
	r.outboxBytes += m.size()
	r.Wake()
	return out.sent, nil
}

// Head returns the oldest message that is to be sent, and whether there is one.
// It stays until Sent or Refused is called, which is up to one goroutine.
func (r *Registry) Head() (Message, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.outbox) == 0 {
		return Message{}, false
	}
	return r.outbox[0].message, true
}

// Sent takes the head off: it was sent.
func (r *Registry) Sent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.popLocked()
}

// Refused takes the head off: it cannot be sent, and is counted as dropped.
// Whoever waits for it waits no longer.
func (r *Registry) Refused() {
	r.Dropped.Sent.Add(1)
	r.Sent()
}

func (r *Registry) popLocked() {
	head := r.outbox[0]
	r.outbox[0] = nil
	r.outbox = r.outbox[1:]
	r.outboxBytes -= head.message.size()
	close(head.sent)
	r.roomLocked()
	r.Wake()
}

// roomLocked ends the waits for room.
func (r *Registry) roomLocked() {
	if r.room != nil {
		close(r.room)
		r.room = nil
	}
}

// Queued returns how many messages wait to be sent.
func (r *Registry) Queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.outbox)
}
