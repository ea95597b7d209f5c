package session_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// The opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	textFrame   = 1
	binaryFrame = 2
	closeFrame  = 8
	pingFrame   = 9
	pongFrame   = 10
)

// frame is a WebSocket message as it was sent.
type frame struct {
	opcode  byte
	payload []byte
}

// frameServer is a WebSocket server that sees and sends bytes: opamp-go's is more
// tolerant than the specification.
type frameServer struct {
	url      string
	received chan frame
	// answer is what each message is answered with.
	answer frame
	// extension is what the server says of compression.
	extension string
	// deaf makes the server read and say nothing, once it has answered one ping.
	deaf bool

	mu          sync.Mutex // guards everything below
	connections int
	conns       []net.Conn
}

func startFrameServer(t *testing.T, answer frame, options ...func(*frameServer)) *frameServer {
	t.Helper()
	s := &frameServer{received: make(chan frame, 1000), answer: answer}
	for _, o := range options {
		o(s)
	}
	var serving sync.WaitGroup
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		s.mu.Lock()
		s.connections++
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		serving.Go(func() {
			defer conn.Close() //nolint:errcheck // the peer may have been faster
			s.serve(conn, buffered.Reader, r.Header.Get("Sec-WebSocket-Key"))
		})
	}))
	t.Cleanup(func() {
		web.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		serving.Wait()
	})
	s.url = "ws" + strings.TrimPrefix(web.URL, "http") + "/v1/opamp"
	return s
}

// serve returns when the connection ends.
func (s *frameServer) serve(conn net.Conn, in *bufio.Reader, key string) {
	accept := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		s.extension+"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(accept[:])+"\r\n\r\n")
	silent := false
	for err == nil {
		var f frame
		if f, err = readFrame(in); err != nil {
			return
		}
		if silent {
			continue
		}
		answer := s.answer
		switch f.opcode {
		case closeFrame:
			answer = f
		case pingFrame:
			answer = frame{pongFrame, f.payload}
			silent = s.deaf
		default:
			s.received <- f
		}
		// All answers of these tests are short.
		_, err = conn.Write(append([]byte{0x80 | answer.opcode, byte(len(answer.payload))}, answer.payload...))
	}
}

// readFrame reads a message of a client, which are masked and, here, of one frame.
func readFrame(in io.Reader) (frame, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return frame{}, err
	}
	size := uint64(head[1] & 0x7f)
	if more := map[uint64]int{126: 2, 127: 8}[size]; more > 0 {
		long := make([]byte, 8)
		if _, err := io.ReadFull(in, long[8-more:]); err != nil {
			return frame{}, err
		}
		size = binary.BigEndian.Uint64(long)
	}
	body := make([]byte, 4+size)
	if _, err := io.ReadFull(in, body); err != nil {
		return frame{}, err
	}
	mask, payload := body[:4], body[4:]
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return frame{head[0] & 0x0f, payload}, nil
}

func (s *frameServer) next(t *testing.T) frame {
	t.Helper()
	select {
	case f := <-s.received:
		return f
	case <-time.After(waitTime):
		t.Fatal("no frame arrived")
		return frame{}
	}
}

// TestWireFormat: a message is one binary WebSocket message, a header of one zero
// before the data; and no data is a message, too.
//
// Conformance: 3, 5
func TestWireFormat(t *testing.T) {
	t.Parallel()
	server := startFrameServer(t, frame{binaryFrame, []byte{0}})
	set, _ := settings(t, session.WebSocket, server.url)
	s := start(t, set)
	for i := range uint64(3) {
		f := server.next(t)
		require.Equal(t, byte(binaryFrame), f.opcode)
		require.NotEmpty(t, f.payload)
		require.Zero(t, f.payload[0])
		m := &protobufs.AgentToServer{}
		require.NoError(t, proto.Unmarshal(f.payload[1:], m))
		assert.Equal(t, set.InstanceUID[:], m.GetInstanceUid())
		assert.Equal(t, i, m.GetSequenceNum())
		require.NoError(t, s.SetHealth(health.Node{Status: strings.Repeat("x", int(i))}))
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	assert.Equal(t, 1, server.connections, "an empty answer is no reason to leave")
}

// TestMalformedMessageEndsTheConnection, and the agent comes back.
//
// Conformance: 4, 6
func TestMalformedMessageEndsTheConnection(t *testing.T) {
	t.Parallel()
	valid, err := proto.Marshal(&protobufs.ServerToAgent{RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("new")}})
	require.NoError(t, err)
	for name, answer := range map[string]frame{
		"text":           {textFrame, append([]byte{0}, valid...)},
		"another header": {binaryFrame, append([]byte{1}, valid...)},
		"no protobuf":    {binaryFrame, []byte{0, 0xff, 0xff}},
		"cut off":        {binaryFrame, append([]byte{0}, valid[:len(valid)-1]...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startFrameServer(t, answer)
			set, events := settings(t, session.WebSocket, server.url)
			start(t, set)
			server.next(t)
			server.next(t)
			server.mu.Lock()
			defer server.mu.Unlock()
			assert.GreaterOrEqual(t, server.connections, 2)
			assert.Empty(t, events.offers)
		})
	}
}
