package opampserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

// Message is one entry of the record: a message received from an agent or sent
// to one. Exactly one of Received and Sent is set.
type Message struct {
	// Time is when the message was received, or when its writing began.
	Time time.Time
	// Index is the position in the record, from 0, in the order of the wire.
	Index int
	// UID is the agent's instance UID as UUID text.
	UID string
	// Conn numbers the connection, from 1: each WebSocket connection has a
	// number, and each TCP connection that carries HTTP requests.
	Conn int
	// Transport is the transport of the connection.
	Transport Transport
	// Received is a report of an agent. It must not be modified.
	Received *protobufs.AgentToServer
	// Sent is an answer or a push. It must not be modified.
	Sent *protobufs.ServerToAgent
	// Err says why a Sent message could not be written, nil otherwise.
	Err error
}

// messageOverhead is what an entry costs beside the encoded message, in bytes.
const messageOverhead = 256

// record is the bounded history of messages. It is guarded by Server.mu.
type record struct {
	keepBytes int
	bytes     int
	first     int // index of messages[0]
	messages  []Message
}

// add appends m, fills in its index and time, and forgets the oldest messages
// that no longer fit.
func (r *record) add(m Message) int {
	m.Time = time.Now()
	m.Index = r.first + len(r.messages)
	r.messages = append(r.messages, m)
	r.bytes += m.size()
	drop := 0
	for r.bytes > r.keepBytes && drop < len(r.messages)-1 {
		r.bytes -= r.messages[drop].size()
		drop++
	}
	if drop > 0 {
		r.messages = slices.Delete(r.messages, 0, drop)
		r.first += drop
	}
	return m.Index
}

// fail notes that the message could not be written.
func (r *record) fail(index int, err error) {
	if i := index - r.first; i >= 0 {
		r.messages[i].Err = err
	}
}

// from returns a copy of the entries with this index and later.
func (r *record) from(index int) []Message {
	i := min(max(index-r.first, 0), len(r.messages))
	return slices.Clone(r.messages[i:])
}

func (m *Message) size() int {
	if m.Received != nil {
		return proto.Size(m.Received) + messageOverhead
	}
	return proto.Size(m.Sent) + messageOverhead
}

// Messages returns the record, oldest first. The slice belongs to the caller.
func (s *Server) Messages() []Message { return s.MessagesFrom(0) }

// MessagesFrom returns the part of the record with index from and later. The
// slice belongs to the caller.
func (s *Server) MessagesFrom(from int) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.from(from)
}

// Mark is the index that the next message will have: pass it to WaitMessage to
// see only what comes after this call.
func (s *Server) Mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.first + len(s.record.messages)
}

// WaitMessage returns the first message with index from or later for which match
// returns true, waiting for it until ctx ends. Each message is shown to match
// once and in order. The error contains the end of the timeline.
func (s *Server) WaitMessage(ctx context.Context, from int, match func(Message) bool) (Message, error) {
	var found Message
	next := from
	err := s.await(ctx, func() bool {
		for _, m := range s.MessagesFrom(next) {
			next = m.Index + 1
			if match(m) {
				found = m
				return true
			}
		}
		return false
	})
	if err != nil {
		return Message{}, fmt.Errorf("waiting for a message from index %d: %w\n%s", from, err, s.Timeline("", errorTimeline))
	}
	return found, nil
}
