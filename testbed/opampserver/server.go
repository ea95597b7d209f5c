package opampserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
)

// DefaultCapabilities is what a Server announces when [Settings.Capabilities]
// is zero: everything an agent may have a use for.
const DefaultCapabilities = protobufs.ServerCapabilities_ServerCapabilities_AcceptsStatus |
	protobufs.ServerCapabilities_ServerCapabilities_OffersRemoteConfig |
	protobufs.ServerCapabilities_ServerCapabilities_AcceptsEffectiveConfig |
	protobufs.ServerCapabilities_ServerCapabilities_OffersPackages |
	protobufs.ServerCapabilities_ServerCapabilities_AcceptsPackagesStatus |
	protobufs.ServerCapabilities_ServerCapabilities_OffersConnectionSettings |
	protobufs.ServerCapabilities_ServerCapabilities_AcceptsConnectionSettingsRequest

const (
	defaultAddr = "127.0.0.1:0"
	defaultPath = "/v1/opamp"

	// defaultKeepBytes holds the messages of the longest test (hundreds of
	// changes with effective configs of tens of kilobytes) several times over.
	defaultKeepBytes = 256 << 20

	// headerTimeout only guards against a peer that connects and says nothing.
	headerTimeout = 10 * time.Second
)

// ErrStopped is returned by waits that were under way when the Server stopped.
var ErrStopped = errors.New("the OpAMP server has been stopped")

// Settings configures a [Server]. The zero value serves plain text on an
// ephemeral loopback port.
type Settings struct {
	// Addr is the TCP address to listen on, 127.0.0.1:0 when empty.
	Addr string
	// Path is the URL path of the endpoint, /v1/opamp when empty.
	Path string
	// TLS makes the server speak TLS (https and wss). It is cloned. With ClientAuth
	// and ClientCAs in it, clients without a valid certificate are turned away in
	// the handshake: see [Server.FailedHandshakes] and [Attempt].
	TLS *tls.Config
	// Accept decides on each WebSocket handshake and on each HTTP request: 0
	// accepts, any other value is the HTTP status of the refusal, sent with the
	// returned header. It is called concurrently. Nil accepts all.
	Accept func(*http.Request) (status int, header map[string]string)
	// Sign answers the certificate request of an agent: with an offer, which is then
	// in force for this agent, or with an error, which is sent as BAD_REQUEST. It is
	// called from the connection's goroutine, without any lock; the request is in
	// PEM. Nil means that requests are recorded and not answered.
	Sign func(uid string, request []byte) (*protobufs.ConnectionSettingsOffers, error)
	// Capabilities is announced in every answer, DefaultCapabilities when zero.
	Capabilities protobufs.ServerCapabilities
	// CustomCapabilities is announced in the first answer on each connection.
	CustomCapabilities []string
	// EnableCompression permits compressed messages.
	EnableCompression bool
	// KeepBytes bounds the memory of the message record, in bytes of encoded
	// messages, 256 MiB when zero. The oldest messages are forgotten first.
	KeepBytes int
	// Logger receives the log of the protocol library. Nil discards it.
	Logger types.Logger
}

// Server is a running OpAMP server. It is created by [Start] and must be ended
// with [Server.Stop].
type Server struct {
	settings Settings
	started  time.Time
	listener net.Listener
	http     *http.Server
	handle   server.HTTPHandlerFunc

	// done is closed when Stop begins.
	done chan struct{}
	// serving counts the accept loop, handlers and hijacked connections.
	serving sync.WaitGroup

	mu sync.Mutex
	// mu guards everything below.

	// changed is closed and replaced whenever anything below has changed.
	changed  chan struct{}
	stopping bool
	holding  bool
	refusal  *refusal
	agents   map[string]*agentState
	offers   map[string]Offer // by uid; "" is for every agent
	// connections are the offers of connection settings, by uid as well.
	connections map[string]*protobufs.ConnectionSettingsOffers
	// repeating: see RepeatConnections.
	repeating bool
	// closing: see CloseAccepted.
	closing bool
	// required are the values that a header may have, by canonical key.
	required map[string][]string
	failed   []FailedHandshake
	sessions map[*session]struct{}
	raw      map[*trackedConn]struct{}
	record   record
	attempts []Attempt

	numbers         int // of accepted OpAMP connections, any transport
	wsConnections   int
	httpConnections int
	requests        int
}

// Start listens and serves until [Server.Stop].
func Start(settings Settings) (*Server, error) {
	settings.Addr = cmp.Or(settings.Addr, defaultAddr)
	settings.Path = cmp.Or(settings.Path, defaultPath)
	settings.Capabilities = cmp.Or(settings.Capabilities, DefaultCapabilities)
	settings.KeepBytes = cmp.Or(settings.KeepBytes, defaultKeepBytes)

	s := &Server{
		settings:    settings,
		started:     time.Now(),
		done:        make(chan struct{}),
		changed:     make(chan struct{}),
		agents:      map[string]*agentState{},
		offers:      map[string]Offer{},
		connections: map[string]*protobufs.ConnectionSettingsOffers{},
		required:    map[string][]string{},
		sessions:    map[*session]struct{}{},
		raw:         map[*trackedConn]struct{}{},
		record:      record{keepBytes: settings.KeepBytes},
	}
	handle, connContext, err := server.New(settings.Logger).Attach(server.Settings{
		Callbacks:          s.callbacks(),
		EnableCompression:  settings.EnableCompression,
		CustomCapabilities: settings.CustomCapabilities,
	})
	if err != nil {
		return nil, fmt.Errorf("attaching to the OpAMP library: %w", err)
	}
	s.handle = handle

	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", settings.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", settings.Addr, err)
	}
	s.listener = ln

	mux := http.NewServeMux()
	mux.HandleFunc(settings.Path, s.serveHTTP)
	protocols := new(http.Protocols)
	// The library hijacks connections and keys HTTP ones by net.Conn: HTTP/1 only.
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           mux,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // failed handshakes are recorded
		ConnState:         s.connState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(connContext(ctx, c), linkKey{}, &link{conn: c})
		},
	}
	if settings.TLS != nil {
		s.http.TLSConfig = settings.TLS.Clone()
	}
	s.serving.Go(s.serve)
	return s, nil
}

// serve runs the accept loop. Its error is always the one of a closed listener:
// the listener exists and the handler cannot fail.
func (s *Server) serve() {
	if s.http.TLSConfig != nil {
		_ = s.http.ServeTLS(s.listener, "", "")
		return
	}
	_ = s.http.Serve(s.listener)
}

// Stop closes the listener and every connection, WebSocket ones included, ends
// all waits with [ErrStopped] and returns when every goroutine has ended or ctx
// has. It may be called more than once.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopping
	s.stopping = true
	if first {
		close(s.done)
	}
	raw := make([]*trackedConn, 0, len(s.raw))
	for c := range s.raw {
		raw = append(raw, c)
	}
	s.mu.Unlock()

	// First the listener: who is told 503 because it came back too soon stays away
	// for half a minute and more.
	closed := s.http.Close()
	// The library does not know how to end the WebSocket connections that it
	// serves: closing the socket under it makes its read fail.
	for _, c := range raw {
		_ = c.Conn.Close() // the peer may have closed it already
	}
	if closed != nil {
		return fmt.Errorf("closing the listener: %w", closed)
	}
	ended := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for connections to end: %w", context.Cause(ctx))
	}
}

// Addr is the address on which the server listens, host and port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// WSURL is the endpoint for a WebSocket client, with scheme ws or wss.
func (s *Server) WSURL() string { return s.url("ws") }

// HTTPURL is the endpoint for a plain HTTP client, with scheme http or https.
func (s *Server) HTTPURL() string { return s.url("http") }

func (s *Server) url(scheme string) string {
	if s.settings.TLS != nil {
		scheme += "s"
	}
	return scheme + "://" + s.Addr() + s.settings.Path
}

// notifyLocked wakes every wait.
func (s *Server) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await calls ready, without any lock, now and after every change until it
// returns true. The signal is taken before ready looks, so no change is missed.
func (s *Server) await(ctx context.Context, ready func() bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if ready() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.done:
			return ErrStopped
		}
	}
}
