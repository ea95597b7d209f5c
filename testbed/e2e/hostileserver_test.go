//go:build unix

package e2e_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha1"
	"encoding/base64"
	bits "encoding/binary" // binary is that under test
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// WebSocket frames (RFC 6455, section 5.2), as far as a hostile server needs them.
const (
	continuation = 0
	textFrame    = 1
	binaryFrame  = 2

	final      = 0x80 // the message ends with this frame
	compressed = 0x40 // RFC 7692, section 6
)

// hostile is a server that keeps to no protocol: an attack decides what every
// connection gets. The server of the other tests is honest.
type hostile struct {
	listener net.Listener
	web      *http.Server
	attack   attack
	// uid is the instance UID of the agent that is attacked.
	uid []byte
	// elsewhere is the URL of another server, without its scheme.
	elsewhere string
	// stopping ends with the attack; an answer that has no end watches it.
	stopping context.Context //nolint:containedctx // the server's life, not a request's
	stop     context.CancelFunc
	serving  sync.WaitGroup
	started  time.Time

	mu       sync.Mutex // guards everything below
	accepted []time.Time
	contacts int // requests, handshakes among them
	messages int // messages of an attack that consists of them
	hijacked []net.Conn
}

// attack is what a hostile server does. What is set first in this order is done.
type attack struct {
	// request answers every request, whether it asks for a WebSocket or not.
	request func(h *hostile, w http.ResponseWriter, r *http.Request)
	// webSocket is what happens on a WebSocket once it is open, until it returns.
	webSocket func(h *hostile, c net.Conn)
	// plain answers an HTTP poll.
	plain func(h *hostile, w http.ResponseWriter, r *http.Request)
	// message is the nth message of a stream; over HTTP one is in each answer.
	message func(h *hostile, n int) []byte
	// pace is the time between two messages over WebSocket.
	pace time.Duration
	// opcode of a message, binary if it is 0.
	opcode byte
	// handshake is another line of the WebSocket handshake.
	handshake string
}

// startHostile attacks whatever connects to addr, until stopped.
func startHostile(t *testing.T, addr, elsewhere string, uid []byte, a attack) *hostile {
	t.Helper()
	h := &hostile{attack: a, uid: uid, elsewhere: elsewhere, started: time.Now()}
	h.stopping, h.stop = context.WithCancel(context.Background())
	var err error
	h.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	h.web = &http.Server{
		Handler:           http.HandlerFunc(h.serve),
		ReadHeaderTimeout: patience, // the agent is not the attacker here
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				h.mu.Lock()
				h.accepted = append(h.accepted, time.Now())
				h.mu.Unlock()
			}
		},
	}
	h.serving.Go(func() { _ = h.web.Serve(h.listener) }) // ends with close
	t.Cleanup(h.close)
	return h
}

// close ends the attack and waits for it. It may be called twice.
func (h *hostile) close() {
	h.stop()
	_ = h.web.Close()
	h.mu.Lock()
	for _, c := range h.hijacked {
		_ = c.Close()
	}
	h.mu.Unlock()
	h.serving.Wait()
}

func (h *hostile) serve(w http.ResponseWriter, r *http.Request) {
	h.serving.Add(1)
	defer h.serving.Done()
	h.mu.Lock()
	h.contacts++
	h.mu.Unlock()
	switch {
	case h.attack.request != nil:
		h.attack.request(h, w, r)
	case r.Header.Get("Upgrade") != "":
		h.upgrade(w, r)
	case h.attack.plain != nil:
		_, _ = io.Copy(io.Discard, r.Body)
		h.attack.plain(h, w, r)
	default:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(h.attack.message(h, h.next()))
	}
}

// next counts the messages of the attack.
func (h *hostile) next() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages++
	return h.messages - 1
}

// hijack takes a connection from the HTTP server. It is closed with the attack.
func (h *hostile) hijack(w http.ResponseWriter) (net.Conn, *bufio.Reader, bool) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, false // the server is being closed
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hijacked = append(h.hijacked, conn)
	if h.stopping.Err() != nil {
		_ = conn.Close()
	}
	return conn, buffered.Reader, true
}

func (h *hostile) upgrade(w http.ResponseWriter, r *http.Request) {
	conn, in, ok := h.hijack(w)
	if !ok {
		return
	}
	defer conn.Close() //nolint:errcheck // the peer may have been faster
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(accept[:])+"\r\n"+h.attack.handshake+"\r\n"); err != nil {
		return
	}
	h.serving.Go(func() { _, _ = io.Copy(io.Discard, in) }) // what the agent says does not matter
	if h.attack.webSocket != nil {
		h.attack.webSocket(h, conn)
		return
	}
	ticker := time.NewTicker(h.attack.pace)
	defer ticker.Stop()
	opcode := h.attack.opcode
	if opcode == 0 {
		opcode = binaryFrame
	}
	for h.wait(ticker) {
		// The header of the protocol, one zero, comes before the message.
		if writeFrame(conn, final|opcode, append([]byte{0}, h.attack.message(h, h.next())...)) != nil {
			return
		}
	}
}

// wait reports whether the attack goes on after the next tick.
func (h *hostile) wait(ticker *time.Ticker) bool {
	select {
	case <-ticker.C:
		return true
	case <-h.stopping.Done():
		return false
	}
}

// writeFrame writes one frame of a server, which is not masked.
func writeFrame(w io.Writer, head byte, payload []byte) error {
	_, err := w.Write(append(frameHead(head, uint64(len(payload))), payload...))
	return err
}

// frameHead is the beginning of a frame that says to have a length.
func frameHead(head byte, size uint64) []byte {
	switch {
	case size < 126:
		return []byte{head, byte(size)}
	case size < 1<<16:
		return bits.BigEndian.AppendUint16([]byte{head, 126}, uint16(size))
	default:
		return bits.BigEndian.AppendUint64([]byte{head, 127}, size)
	}
}

// connections returns how many connections were opened within a time after the
// first so and so many.
func (h *hostile) connections(after int, within time.Duration) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.accepted) <= after {
		return 0
	}
	n, until := 0, h.accepted[after].Add(within)
	for _, at := range h.accepted[after:] {
		if at.Before(until) {
			n++
		}
	}
	return n
}

// counts are the connections, requests and messages so far.
func (h *hostile) counts() (connections, contacts, messages int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.accepted), h.contacts, h.messages
}

// zeros reads as that many zeros.
type zeros struct{ left int }

// Read implements [io.Reader].
func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	z.left -= n
	return n, nil
}

// deflated compresses zeros as permessage-deflate wants it: without the last four
// bytes (RFC 7692, section 7.2.1).
func deflated(size int) ([]byte, error) {
	var out bytes.Buffer
	c, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(c, &zeros{size})
	if err := errors.Join(err, c.Flush()); err != nil {
		return nil, err
	}
	return out.Bytes()[:out.Len()-4], nil
}
