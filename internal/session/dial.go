package session

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// Counters count what a session sends and receives, over all its connections.
// They are safe for concurrent use, and the zero value is ready.
type Counters struct {
	// BytesSent and BytesReceived are counted at the connection: with TLS,
	// headers and control frames.
	BytesSent, BytesReceived atomic.Uint64
	// MessagesReceived are the server's messages. MessagesSent are, over HTTP,
	// requests; over WebSocket, reports that were given to the client, of which
	// several may travel in one message, without heartbeats.
	MessagesSent, MessagesReceived atomic.Uint64
	// Connections counts the WebSocket connections that were accepted, or the
	// runs of HTTP requests without a failure.
	Connections atomic.Uint64
	// Connected is 1 while there is such a connection or run, else 0.
	Connected atomic.Int64
}

// dial opens a connection that is counted and whose end is noticed.
func (s *Session) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := dialer().DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if s.transport != nil { // it reads whenever it likes
		return counted{conn, s.counters, func() {}}, nil
	}
	return counted{conn, s.counters, s.heard.next}, nil
}

// A peer that is gone without a word is noticed by TCP within unanswered, whether
// the agent has something to send or not: 30 s of silence, the interval of
// heartbeats, and three probes. Less would end connections in every short
// disturbance of a network, of which a minute is long.
const (
	idle       = 30 * time.Second
	probe      = 10 * time.Second
	probes     = 3
	unanswered = idle + probes*probe
	// writeTimeout bounds a write to a peer that lives and does not read. The
	// client writes 4 KiB at a time.
	writeTimeout = 30 * time.Second
)

// dialer dials connections whose end is noticed.
func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: idle, Interval: probe, Count: probes},
		Control:         limitUnanswered,
	}
}

// counted is a connection whose bytes are counted and whose writes are bounded.
type counted struct {
	net.Conn
	c       *Counters
	reading func() // called before each read
}

func (c counted) Read(p []byte) (int, error) {
	c.reading()
	n, err := c.Conn.Read(p)
	c.c.BytesReceived.Add(uint64(n)) //nolint:gosec // never negative
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.c.BytesSent.Add(uint64(n)) //nolint:gosec // never negative
	return n, err
}

// SetWriteDeadline sets a limit, and there is always one: the WebSocket library
// sets one before each write, and for messages that is none.
func (c counted) SetWriteDeadline(t time.Time) error {
	if limit := time.Now().Add(writeTimeout); t.IsZero() || t.After(limit) {
		t = limit
	}
	return c.Conn.SetWriteDeadline(t)
}
