package session_test

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// failure returns the first failure that contains text.
func (e *events) failure(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(waitTime)
	var seen []string
	for {
		select {
		case err := <-e.failed:
			if strings.Contains(err.Error(), text) {
				return
			}
			seen = append(seen, err.Error())
		case <-deadline:
			t.Fatalf("no failure says %q, but: %q", text, seen)
		}
	}
}

// TestServerThatAcceptsAndCloses is not overrun: the client does not pause after
// a connection that was made, so the session has to.
//
// Conformance: 151
func TestServerThatAcceptsAndCloses(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"at once": false, "after an answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := frame{closeFrame, nil}
			if answers {
				answer = frame{textFrame, nil} // an answer that ends the connection
			}
			server := startFrameServer(t, answer)
			set, _ := settings(t, session.WebSocket, server.url)
			times := session.DefaultTimes()
			// Six pauses of 50 ms at least, drawn from twice the time.
			times.First, times.Longest = 100*time.Millisecond, 100*time.Millisecond
			set.SetTimes(times)
			set.Pace = &session.Pace{}
			start(t, set)
			began := time.Now()
			for range 20 {
				server.next(t)
			}
			// Twenty pauses of 50 ms on average; without any it takes some milliseconds.
			assert.Greater(t, time.Since(began), 300*time.Millisecond)
		})
	}
}

// TestStopDoesNotWaitForThePause, and connects no more.
func TestStopDoesNotWaitForThePause(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		set, events := settings(t, transport, server.url(transport))
		server.reply(&protobufs.ServerToAgent{ErrorResponse: unavailable(time.Hour)})
		s, err := session.Start(t.Context(), set)
		require.NoError(t, err)
		server.next(t)
		events.failure(t, "the OpAMP server is unavailable")
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
		assert.Empty(t, server.received)
	})
}

func unavailable(d time.Duration) *protobufs.ServerErrorResponse {
	return &protobufs.ServerErrorResponse{
		Type:    protobufs.ServerErrorResponseType_ServerErrorResponseType_Unavailable,
		Details: &protobufs.ServerErrorResponse_RetryInfo{RetryInfo: &protobufs.RetryInfo{RetryAfterNanoseconds: uint64(d)}},
	}
}

// TestUnavailableServerIsLeftAlone: the agent goes, says nothing for the time that
// the server wishes, no heartbeat either, and comes back with what there is to say.
//
// Conformance: 63, 154
func TestUnavailableServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		const wish = 1500 * time.Millisecond // longer than the heartbeats below
		a := &turnAway{answer: func(http.ResponseWriter, *http.Request) bool { return false }}
		server := startServer(t, a.wrap)
		server.reply(&protobufs.ServerToAgent{
			ErrorResponse: unavailable(wish),
		})
		set, events := settings(t, transport, server.url(transport))
		set.HeartbeatInterval = time.Second
		s := start(t, set)
		server.next(t)
		events.failure(t, "the OpAMP server is unavailable; the agent comes back in ")
		began := time.Now()
		server.reply(&protobufs.ServerToAgent{})
		require.NoError(t, s.SetHealth(health.Node{Status: "changed"}))
		server.next(t)
		// The wish counts from the answer, a moment before.
		assert.Greater(t, time.Since(began), wish-100*time.Millisecond)
		a.mu.Lock()
		defer a.mu.Unlock()
		assert.Equal(t, 2, a.attempts, "requests, or connections")
	})
}

// TestRefusalsAreTold with their HTTP status, once per attempt.
func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	for _, status := range []int{
		http.StatusNoContent, http.StatusMultipleChoices, http.StatusUnauthorized, http.StatusForbidden,
		http.StatusNotFound, http.StatusProxyAuthRequired, http.StatusInternalServerError, http.StatusBadGateway,
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, transport session.Transport) {
				var attempts atomic.Int32
				a := &turnAway{answer: func(w http.ResponseWriter, _ *http.Request) bool {
					attempts.Add(1)
					w.WriteHeader(status)
					return true
				}}
				server := startServer(t, a.wrap)
				set, events := settings(t, transport, server.url(transport))
				set.Counters = &session.Counters{}
				start(t, set)
				for range 3 {
					select {
					case err := <-events.failed:
						require.EqualError(t, err, "the OpAMP server answers with HTTP status "+strconv.Itoa(status)+" "+http.StatusText(status))
						assert.Equal(t, status == 401 || status == 403 || status == 404 || status == 407, session.Certain(err))
					case <-time.After(waitTime):
						t.Fatal("the refusal is not told")
					}
				}
				assert.GreaterOrEqual(t, attempts.Load(), int32(3))
				assert.Zero(t, set.Counters.Connected.Load())
			})
		})
	}
}

// TestBusyServerWithoutAWish gets a longer pause than others.
//
// Conformance: 152, 153
func TestBusyServerWithoutAWish(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		var refused atomic.Bool
		a := &turnAway{answer: func(w http.ResponseWriter, _ *http.Request) bool {
			if refused.Swap(true) {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}}
		server := startServer(t, a.wrap)
		set, _ := settings(t, transport, server.url(transport))
		times := session.DefaultTimes()
		times.First, times.Longest, times.Busy = time.Millisecond, time.Millisecond, 500*time.Millisecond
		set.SetTimes(times)
		start(t, set)
		server.next(t)
		a.mu.Lock()
		defer a.mu.Unlock()
		require.Len(t, a.times, 2)
		assert.GreaterOrEqual(t, a.times[1].Sub(a.times[0]), 500*time.Millisecond)
	})
}

// TestRetryAfterVaries: agents that are sent away together do not come back
// together. Of ten all come within a fifth of the spread once in ten million runs.
//
// Conformance: 152
func TestRetryAfterVaries(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		var latest time.Duration
		var mu sync.Mutex
		var work sync.WaitGroup
		for range 10 {
			var refused atomic.Bool
			a := &turnAway{answer: func(w http.ResponseWriter, _ *http.Request) bool {
				if refused.Swap(true) {
					return false
				}
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}}
			server := startServer(t, a.wrap)
			set, _ := settings(t, transport, server.url(transport))
			start(t, set)
			work.Go(func() {
				select {
				case <-server.received:
				case <-time.After(waitTime):
					t.Error("no message arrived")
					return
				}
				a.mu.Lock()
				pause := a.times[1].Sub(a.times[0])
				a.mu.Unlock()
				assert.GreaterOrEqual(t, pause, time.Second)
				mu.Lock()
				defer mu.Unlock()
				latest = max(latest, pause)
			})
		}
		work.Wait()
		assert.Greater(t, latest, 1100*time.Millisecond)
	})
}

// TestPauseOutlivesTheSession: a session that was told to wait and is replaced,
// because settings changed, hands its pause on.
func TestPauseOutlivesTheSession(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		const wish = 700 * time.Millisecond
		server := startServer(t, nil)
		server.reply(&protobufs.ServerToAgent{ErrorResponse: unavailable(wish)})
		set, events := settings(t, transport, server.url(transport))
		set.Pace = &session.Pace{}
		s, err := session.Start(t.Context(), set)
		require.NoError(t, err)
		server.next(t)
		events.failure(t, "unavailable")
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
		for len(server.received) > 0 { // its last words
			server.next(t)
		}
		start(t, set)
		server.next(t)
		assert.Greater(t, time.Since(began), wish-100*time.Millisecond)
	})
}

// TestRequestWithoutAnAnswer is given up and repeated.
//
// Conformance: 15
func TestRequestWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var requests atomic.Int32
	numbers := make(chan uint64, 1000)
	url := rawServer(t, func(w http.ResponseWriter, _ *http.Request, m *protobufs.AgentToServer) {
		numbers <- m.GetSequenceNum()
		switch requests.Add(1) {
		case 1: // no answer
			<-release
		case 2: // half an answer
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-release
		}
	})
	t.Cleanup(func() { close(release) }) // before the server waits for its requests
	set, events := settings(t, session.HTTP, url)
	times := session.DefaultTimes()
	times.Request, times.First = 200*time.Millisecond, 20*time.Millisecond
	set.SetTimes(times)
	start(t, set)
	select {
	case err := <-events.failed:
		timeout, ok := errors.AsType[net.Error](err)
		require.True(t, ok && timeout.Timeout(), err)
	case <-time.After(waitTime):
		t.Fatal("it is not given up")
	}
	for _, want := range []uint64{0, 0, 1} {
		select {
		case n := <-numbers:
			assert.Equal(t, want, n)
		case <-time.After(waitTime):
			t.Fatal("the agent does not poll any more")
		}
	}
}

// TestServerThatFallsSilent is noticed, although its connection looks well: it
// answers pings no more.
//
// Conformance: 64
func TestServerThatFallsSilent(t *testing.T) {
	t.Parallel()
	server := startFrameServer(t, frame{binaryFrame, []byte{0}}, func(s *frameServer) { s.deaf = true })
	set, _ := settings(t, session.WebSocket, server.url)
	times := session.DefaultTimes()
	times.First, times.Ping, times.Silence = 20*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
	set.SetTimes(times)
	start(t, set)
	for range 3 { // one message per connection
		server.next(t)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	assert.GreaterOrEqual(t, server.connections, 3)
}

// TestNetworkThatDropsEverything: the connection through a proxy stays open on
// both sides, and nothing gets through any more.
//
// Conformance: 64
func TestNetworkThatDropsEverything(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	url := server.url(session.WebSocket)
	address := strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/v1/opamp")
	proxy := startProxy(t, address)
	set, _ := settings(t, session.WebSocket, strings.Replace(url, address, proxy.address, 1))
	times := session.DefaultTimes()
	times.First, times.Ping, times.Silence = 20*time.Millisecond, 50*time.Millisecond, 500*time.Millisecond
	set.SetTimes(times)
	start(t, set)
	server.next(t)
	proxy.awaitBytes(t, 6) // several pongs came through
	proxy.drop()
	server.next(t) // over another connection
}

// proxy is a TCP proxy whose connections can be made to drop everything.
type proxy struct {
	address string
	back    atomic.Int64 // reads from the server

	mu    sync.Mutex // guards everything below
	drops []*atomic.Bool
	conns []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{address: listener.Addr().String()}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{Timeout: waitTime}).Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			drop := &atomic.Bool{}
			p.mu.Lock()
			p.drops = append(p.drops, drop)
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			work.Go(func() { forward(in, out, drop, nil) })
			work.Go(func() { forward(out, in, drop, &p.back) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		work.Wait()
	})
	return p
}

func forward(from, to net.Conn, drop *atomic.Bool, count *atomic.Int64) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if drop.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if count != nil {
			count.Add(1)
		}
	}
}

// awaitBytes waits until n pieces came from the server.
func (p *proxy) awaitBytes(t *testing.T, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return p.back.Load() >= n }, waitTime, 5*time.Millisecond)
}

// drop makes the connections that there are drop everything.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.drops {
		d.Store(true)
	}
}

// TestCompressionIsRefused: a server that compresses unasked could send messages
// of any size.
//
// Conformance: 20
func TestCompressionIsRefused(t *testing.T) {
	t.Parallel()
	server := startFrameServer(t, frame{binaryFrame, []byte{0}}, func(s *frameServer) {
		s.extension = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
	})
	set, events := settings(t, session.WebSocket, server.url)
	set.Callback.Connected = func() { t.Error("it is used") }
	start(t, set)
	events.failure(t, "the server compresses messages although it was not asked to")
	assert.Empty(t, server.received)
}

// TestRedirectToWeakerTLSIsNotFollowed, also to the same host and port, and
// credentials go nowhere else.
//
// Conformance: 16
func TestRedirectToWeakerTLSIsNotFollowed(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for _, scheme := range []string{"http", "ws"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				var plain atomic.Int32
				web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", scheme+"://"+r.Host+"/plain")
					w.WriteHeader(http.StatusTemporaryRedirect)
				}))
				web.Config.ErrorLog = quiet(func() { plain.Add(1) })
				web.StartTLS()
				t.Cleanup(web.Close)
				set, events := settings(t, transport, string(transport)+strings.TrimPrefix(web.URL, "http")+"/v1/opamp")
				set.TLS = web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				set.TLS.NextProtos = nil
				set.Authorize = func(session.Request) (http.Header, error) {
					return http.Header{"Authorization": {"Bearer token"}}, nil
				}
				start(t, set)
				events.failure(t, "redirects to another host or scheme")
				events.failure(t, "redirects to another host or scheme") // nor the next time
				assert.Zero(t, plain.Load(), "the server was spoken to without TLS")
			})
		}
	})
}

// quiet is a log that calls seen for each client that does not speak TLS.
func quiet(seen func()) *log.Logger {
	return log.New(writer(func(text []byte) {
		if strings.Contains(string(text), "HTTP request to an HTTPS server") {
			seen()
		}
	}), "", 0)
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// TestWhatWasNotAnnouncedIsIgnored: a server that offers everything to an agent
// that accepts nothing changes nothing.
//
// Conformance: 49, 70
func TestWhatWasNotAnnouncedIsIgnored(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		var elsewhere atomic.Int32
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
		t.Cleanup(other.Close)
		telemetry := &protobufs.TelemetryConnectionSettings{DestinationEndpoint: other.URL}
		server := startServer(t, nil)
		server.reply(&protobufs.ServerToAgent{
			Command:      &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart},
			RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("c")},
			ConnectionSettings: &protobufs.ConnectionSettingsOffers{
				Hash: []byte("h"),
				Opamp: &protobufs.OpAMPConnectionSettings{
					DestinationEndpoint: strings.Replace(other.URL, "http", string(transport), 1), HeartbeatIntervalSeconds: 3600,
				},
				OwnMetrics: telemetry, OwnTraces: telemetry, OwnLogs: telemetry,
				OtherConnections: map[string]*protobufs.OtherConnectionSettings{"x": {DestinationEndpoint: other.URL}},
			},
			PackagesAvailable: &protobufs.PackagesAvailable{
				AllPackagesHash: []byte("p"),
				Packages: map[string]*protobufs.PackageAvailable{
					"x": {Hash: []byte("x"), File: &protobufs.DownloadableFile{DownloadUrl: other.URL, ContentHash: []byte("y")}},
				},
			},
			CustomMessage: &protobufs.CustomMessage{Capability: "x", Type: "y"},
		})
		set, events := settings(t, transport, server.url(transport))
		set.Capabilities = session.Capabilities{}
		set.Initial.EffectiveConfig = nil
		set.Initial.RemoteConfig = session.RemoteConfigStatus{}
		s := start(t, set)
		for range 3 { // the answers to the first two have been processed by then
			m := server.next(t) // over HTTP the agent polls as before, not each hour
			assert.Equal(t, uint64(1), m.GetCapabilities())
			assert.Nil(t, m.GetRemoteConfigStatus().GetLastRemoteConfigHash())
			assert.Nil(t, m.GetConnectionSettingsStatus())
			assert.Nil(t, m.GetPackageStatuses().GetPackages())
			assert.Nil(t, m.GetCustomMessage())
			require.NoError(t, s.SetDescription(session.Description{Identifying: map[string]any{"service.name": strconv.FormatUint(m.GetSequenceNum(), 10)}}))
		}
		assert.Empty(t, events.offers)
		assert.Empty(t, events.restarts)
		assert.Empty(t, events.settings)
		assert.Zero(t, elsewhere.Load())
	})
}

// TestPeerThatDoesNotRead is given up, although the WebSocket library writes
// messages without a limit.
func TestPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for limit, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Hour: 30 * time.Second, time.Second: time.Second} {
			near, far := net.Pipe()
			conn := session.Counted(near)
			var deadline time.Time
			if limit != 0 {
				deadline = time.Now().Add(limit)
			}
			require.NoError(t, conn.SetWriteDeadline(deadline))
			began := time.Now()
			_, err := conn.Write([]byte("message"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.Equal(t, want, time.Since(began), limit)
			assert.NoError(t, errors.Join(near.Close(), far.Close()))
		}
	})
}
