package session

import (
	"errors"
	"reflect"
	"time"

	"github.com/gorilla/websocket"
	"github.com/open-telemetry/opamp-go/client"
)

// controlTimeout bounds the sending of a ping or of a close: they have a few
// bytes, and only wait for a message that is being sent.
const controlTimeout = 5 * time.Second

// connectionOf returns the WebSocket connection of a client; nil if it has none,
// or is not what it is expected to be. opamp-go does not show it; a test pins
// where it is. It must be called by the client's goroutine that connects, for
// example inside OnConnect.
func connectionOf(c client.OpAMPClient) *websocket.Conn {
	conn := field(reflect.ValueOf(c), "conn")
	if !conn.IsValid() {
		return nil
	}
	found, _ := reflect.TypeAssert[*websocket.Conn](conn)
	return found
}

// errCompressed is why a connection is not used: compressed messages could be of
// any size, and the client counts bytes before it unpacks them.
var errCompressed = errors.New("the server compresses messages although it was not asked to: turn WebSocket compression off")

// unpacks tells whether the messages of a connection are decompressed: the
// library obeys a server that wants to compress, asked or not.
func unpacks(c *websocket.Conn) bool {
	f := field(reflect.ValueOf(c), "newDecompressionReader")
	return f.IsValid() && f.Kind() == reflect.Func && !f.IsNil()
}

// taken takes note of a new WebSocket connection.
func (s *Session) taken(conn *websocket.Conn) error {
	s.pace.connected()
	if conn == nil {
		return nil
	}
	if unpacks(conn) {
		return errors.Join(errCompressed, conn.Close())
	}
	s.conn.Store(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	// A server that answers pings, as RFC 6455 wants, and then does no longer is
	// gone, whatever the proxies in between pretend. Of one that never did TCP
	// has to say it.
	conn.SetPongHandler(func(string) error { return conn.SetReadDeadline(time.Now().Add(s.times.silence)) })
	s.work.Go(func() { s.ping(conn) })
	return nil
}

// ping returns when the connection has ended, or the session.
func (s *Session) ping(conn *websocket.Conn) {
	ticker := time.NewTicker(spread(s.times.ping))
	defer ticker.Stop()
	for {
		select {
		case <-s.stopping:
			return
		case <-ticker.C:
		}
		if err := conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(controlTimeout)); err != nil && !inUse(err) {
			return
		}
	}
}

// inUse tells whether a ping was not sent because a message was.
func inUse(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}

// hangUp ends the WebSocket connection, if there is one; the client connects
// anew.
func (s *Session) hangUp() {
	conn := s.conn.Load()
	if conn == nil {
		return
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(controlTimeout))
	_ = conn.Close() // what matters is that it is over
}
