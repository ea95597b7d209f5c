package session

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
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

// dialed maps addresses that sessions dial to their counters. opamp-go has no
// hook for its WebSocket connections, but copies gorilla's default dialer: that
// gets one that counts, and leaves the connections of all others alone.
var dialed = struct {
	mu sync.Mutex
	// by has the latest session of an address.
	by map[string]*Counters
}{by: map[string]*Counters{}}

func init() { websocket.DefaultDialer.NetDialContext = dialCounted }

func dialCounted(ctx context.Context, network, addr string) (net.Conn, error) {
	dialed.mu.Lock()
	c := dialed.by[addr]
	dialed.mu.Unlock()
	if c == nil {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	conn, err := dialer().DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return counted{conn, c}, nil
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

// countDials counts the connections to the server at endpoint from now on, until
// stop is called.
func countDials(endpoint string, c *Counters) (stop func()) {
	addr := dialAddress(endpoint)
	dialed.mu.Lock()
	defer dialed.mu.Unlock()
	dialed.by[addr] = c
	return func() {
		dialed.mu.Lock()
		defer dialed.mu.Unlock()
		if dialed.by[addr] == c {
			delete(dialed.by, addr)
		}
	}
}

// dialAddress is the address that is dialed for an endpoint: the proxy's of the
// environment, if there is one for it.
func dialAddress(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	scheme := map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	if scheme == "" {
		scheme = u.Scheme
	}
	seen := *u
	seen.Scheme = scheme
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &seen}); err == nil && proxy != nil {
		u, scheme = proxy, proxy.Scheme
	}
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443", "socks5": "1080"}[scheme])
}

// counted is a connection whose bytes are counted and whose writes are bounded.
type counted struct {
	net.Conn
	c *Counters
}

func (c counted) Read(p []byte) (int, error) {
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
