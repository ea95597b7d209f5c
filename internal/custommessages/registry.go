package custommessages

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// maxVacant is how many messages a vacant seat takes. A server that sends
	// ten per second fills it in 100 s; a reload may take drain_timeout and
	// apply_timeout, a minute each, and takes tens of milliseconds as a rule.
	maxVacant = 1000
	// maxVacantBytes bounds what all vacant seats hold together: the largest
	// message that a session takes must fit (session.maxMessage).
	maxVacantBytes = 16 << 20
	// mostQueued bounds what a component may ask for as its queue, which takes
	// 8 bytes per message even while it is empty: half a megabyte.
	mostQueued = 1 << 16
)

// Message is a custom message of the protocol. Its data must not be modified:
// several components may share it.
type Message struct {
	Capability, Type string
	Data             []byte
}

// size is about what a message takes in memory, in bytes.
func (m Message) size() int { return len(m.Capability) + len(m.Type) + len(m.Data) }

// Counters count messages that were dropped, by the direction in which they
// were going. They only go up and are safe for concurrent use.
type Counters struct{ Sent, Received atomic.Uint64 }

// Registry holds the seats of all capabilities and the messages to the server.
// It is made by [NewRegistry] and safe for concurrent use.
type Registry struct {
	// Dropped counts what was lost for want of a reader or of room.
	Dropped Counters
	changed chan struct{} // one slot: full means that somebody will look anyway

	// mu guards everything below.
	mu sync.Mutex
	// ready: no reload is under way, so that nobody takes a seat that is left.
	ready bool
	// seats are those of each capability in the order in which they were first
	// taken; a capability without a seat is not in the map.
	seats       map[string][]*seat
	vacantBytes int // of the messages in vacant seats
	outbox      []*outgoing
	outboxBytes int
	room        chan struct{} // closed when a full outbox is worth another try
}

// seat is where the messages of a capability go. It belongs to the registry's
// mutex.
type seat struct {
	capability string
	occupant   *occupant // nil while the seat is vacant
	waiting    []Message // for the next occupant; empty while there is one
}

// occupant is a registration without the type of its messages.
type occupant struct {
	registry *Registry
	group    *Group
	seat     *seat
	put      func(Message) bool
	takeBack func() []Message
	gone     bool
}

// NewRegistry returns a registry without capabilities, for a service that is
// not ready.
func NewRegistry() *Registry {
	return &Registry{changed: make(chan struct{}, 1), seats: map[string][]*seat{}}
}

// Changed is told after [Registry.Capabilities] or [Registry.Head] may have
// changed. Only one goroutine may receive from it.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Wake makes [Registry.Changed] tell.
func (r *Registry) Wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Capabilities returns what is to be announced to the server, sorted: what is
// registered, what is kept for a successor, and what has messages to be sent.
// The slice belongs to the caller.
func (r *Registry) Capabilities() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]bool, len(r.seats))
	for capability := range r.seats {
		all[capability] = true
	}
	for _, o := range r.outbox {
		all[o.message.Capability] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// NotReady tells that components are about to be replaced: from now on seats
// that are left are kept.
func (r *Registry) NotReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = false
}

// Ready tells that all components have started. Seats that nobody took again are
// given up; it returns how many messages were dropped with them.
func (r *Registry) Ready() (dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
	for _, seats := range r.seats {
		for _, s := range slices.Clone(seats) {
			if s.occupant != nil {
				continue
			}
			dropped += len(s.waiting)
			r.emptyLocked(s)
			r.removeLocked(s)
		}
	}
	r.Dropped.Received.Add(uint64(dropped)) //nolint:gosec // a length
	return dropped
}

// Deliver gives a message of the server to every seat of its capability. It
// returns how many times it was dropped: once for each seat that is full, or once
// if there is no seat. It never waits.
func (r *Registry) Deliver(m Message) (dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seats := r.seats[m.Capability]
	if len(seats) == 0 {
		dropped = 1
	}
	for _, s := range seats {
		if !r.takeLocked(s, m) {
			dropped++
		}
	}
	r.Dropped.Received.Add(uint64(dropped)) //nolint:gosec // a small number
	return dropped
}

func (r *Registry) takeLocked(s *seat, m Message) bool {
	if s.occupant != nil {
		return s.occupant.put(m)
	}
	if len(s.waiting) >= maxVacant || r.vacantBytes+m.size() > maxVacantBytes {
		return false
	}
	s.waiting = append(s.waiting, m)
	r.vacantBytes += m.size()
	return true
}

// emptyLocked removes and returns what waits in a seat.
func (r *Registry) emptyLocked(s *seat) []Message {
	waiting := s.waiting
	s.waiting = nil
	for _, m := range waiting {
		r.vacantBytes -= m.size()
	}
	return waiting
}

func (r *Registry) removeLocked(s *seat) {
	seats := slices.DeleteFunc(r.seats[s.capability], func(other *seat) bool { return other == s })
	r.seats[s.capability] = seats
	if len(seats) == 0 {
		delete(r.seats, s.capability)
		r.Wake()
	}
}

// seatLocked returns the first vacant seat of a capability, or a further one.
// Components start in the same order each time, so that each takes the seat of
// its predecessor.
func (r *Registry) seatLocked(capability string) *seat {
	for _, s := range r.seats[capability] {
		if s.occupant == nil {
			return s
		}
	}
	s := &seat{capability: capability}
	r.seats[capability] = append(r.seats[capability], s)
	r.Wake()
	return s
}

// leaveLocked ends a registration. During a reload the successor is given what
// was not read; otherwise the component may still read it.
func (r *Registry) leaveLocked(o *occupant) {
	if o.gone {
		return
	}
	o.gone = true
	delete(o.group.occupants, o)
	o.seat.occupant = nil
	if r.ready {
		r.removeLocked(o.seat)
	} else {
		// These are kept whatever the bounds: they were accepted, and in memory.
		for _, m := range o.takeBack() {
			o.seat.waiting = append(o.seat.waiting, m)
			r.vacantBytes += m.size()
		}
	}
	r.roomLocked() // whoever waits for room learns that it may send no more
}

// Group holds what was registered through one extension instance.
type Group struct {
	registry *Registry
	// Both are guarded by the registry's mutex.
	closed    bool
	occupants map[*occupant]struct{}
}

// NewGroup returns a group. The caller must Close it.
func (r *Registry) NewGroup() *Group {
	return &Group{registry: r, occupants: map[*occupant]struct{}{}}
}

// Close unregisters what is left, as at the begin of a reload, and makes further
// registrations fail. It may be called more than once.
func (g *Group) Close() {
	r := g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.closed {
		return
	}
	g.closed, r.ready = true, false
	for o := range g.occupants {
		r.leaveLocked(o)
	}
}

// ErrClosed is returned for a registration through an extension instance that was
// shut down.
var ErrClosed = errors.New("the OpAMP extension was shut down")

// Register takes a seat of a capability for a component. Up to queued messages
// wait for it, at least 1 and at most 65536; further ones are dropped. What was
// kept for it in a reload is there already, however much. The functions convert
// messages to and from the type that the component reads, and must not call the
// registry.
func Register[M any](g *Group, capability string, queued int, convert func(Message) M, back func(M) Message) (*Registration[M], error) {
	if capability == "" || !utf8.ValidString(capability) {
		return nil, fmt.Errorf("registering custom capability %q: a capability is a text in UTF-8 that is not empty", capability)
	}
	r := g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.closed {
		return nil, fmt.Errorf("registering custom capability %q: %w", capability, ErrClosed)
	}
	s := r.seatLocked(capability)
	kept := r.emptyLocked(s)
	queued = min(max(queued, 1), mostQueued)
	messages := make(chan M, max(queued, len(kept)))
	for _, m := range kept {
		messages <- convert(m)
	}
	o := &occupant{
		registry: r,
		group:    g,
		seat:     s,
		// Only the registry sends, under its lock, so that this never waits.
		put: func(m Message) bool {
			if len(messages) >= queued {
				return false
			}
			messages <- convert(m)
			return true
		},
		takeBack: func() []Message {
			var unread []Message
			for {
				select {
				case m := <-messages:
					unread = append(unread, back(m))
				default:
					return unread
				}
			}
		},
	}
	s.occupant = o
	g.occupants[o] = struct{}{}
	return &Registration[M]{occupant: o, messages: messages}, nil
}

// Registration is a component's hold on a capability. It is safe for concurrent use.
type Registration[M any] struct {
	occupant *occupant
	messages chan M
}

// Messages returns the channel of the messages from the server, oldest first. It
// is never closed; after Unregister nothing is added to it.
func (n *Registration[M]) Messages() <-chan M { return n.messages }

// Send puts a message to the server into the queue; see [Registry.Head]. Data is
// copied. Without an error the channel is closed when the message was sent. With
// [ErrFull] the message is not taken, and the channel is closed when there may be
// room.
func (n *Registration[M]) Send(kind string, data []byte) (chan struct{}, error) {
	return n.occupant.send(kind, data)
}

// Unregister ends the registration. It may be called more than once.
func (n *Registration[M]) Unregister() {
	r := n.occupant.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked(n.occupant)
}
