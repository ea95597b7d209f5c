package session_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

const (
	herd = 500 // agents
	// herdPeak is how many connections in any second a server may get from the
	// herd when it is started again. The first pause is drawn from two seconds:
	// half of the herd is to be expected in each of them, and six standard
	// deviations of that, √(500/4) each, are left to chance.
	herdPeak = herd/2 + 67
	// herdBack is until when all of them must be back.
	herdBack = time.Minute
	// herdPolling is the polling interval over HTTP: short for a test, and longer
	// than the second over which the peak is taken. Agents are started over one
	// interval: they poll in the order in which they were started, before and
	// after the server's restart.
	herdPolling = 5 * time.Second
)

// herdServer counts connections and knows which agents have spoken to it.
type herdServer struct {
	web     *http.Server
	serving sync.WaitGroup
	all     chan struct{} // closed when every agent has spoken

	mu       sync.Mutex // guards everything below
	accepted []time.Time
	agents   map[uint64]bool
	conns    map[types.Connection]bool
}

// listenHerd starts a server on addr.
func listenHerd(t *testing.T, addr string) (*herdServer, string) {
	t.Helper()
	s := &herdServer{all: make(chan struct{}), agents: map[uint64]bool{}, conns: map[types.Connection]bool{}}
	handler, connContext, err := server.New(nil).Attach(server.Settings{Callbacks: types.Callbacks{
		OnConnecting: func(*http.Request) types.ConnectionResponse {
			return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
				OnConnected: func(_ context.Context, c types.Connection) {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.conns[c] = true
				},
				OnConnectionClose: func(c types.Connection) {
					s.mu.Lock()
					defer s.mu.Unlock()
					delete(s.conns, c)
				},
				OnMessage: func(_ context.Context, _ types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
					s.spoken(binary.BigEndian.Uint64(m.GetInstanceUid()))
					return &protobufs.ServerToAgent{InstanceUid: m.GetInstanceUid()}
				},
			}}
		},
	}})
	require.NoError(t, err)
	s.web = &http.Server{
		Handler: http.HandlerFunc(handler), ConnContext: connContext, ReadHeaderTimeout: waitTime,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.accepted = append(s.accepted, time.Now())
			}
		},
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	s.serving.Go(func() { _ = s.web.Serve(listener) }) // ends with stop
	return s, listener.Addr().String()
}

func (s *herdServer) spoken(agent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.agents[agent] {
		s.agents[agent] = true
		if len(s.agents) == herd {
			close(s.all)
		}
	}
}

// stopListening frees the address; disconnect ends what is connected.
func (s *herdServer) stopListening() { _ = s.web.Close(); s.serving.Wait() }

func (s *herdServer) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Disconnect()
	}
}

// peak returns the most connections in any period of a length.
func (s *herdServer) peak(length time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.accepted, time.Time.Compare)
	most, first := 0, 0
	for last, at := range s.accepted {
		for at.Sub(s.accepted[first]) >= length {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// TestHerdAfterAServerRestart: a server that is started again is not overrun by its
// agents, and soon has them all. It listens again before the agents notice, which
// is the worst that can happen to it: none of them is delayed by a refusal.
func TestHerdAfterAServerRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("takes up to a minute")
	}
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			first, addr := listenHerd(t, "127.0.0.1:0")
			t.Cleanup(func() { first.stopListening(); first.disconnect() })
			endpoint := fmt.Sprintf("%s://%s/v1/opamp", transport, addr)
			sessions := make([]*session.Session, 0, herd)
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), waitTime)
				defer cancel()
				var stopping sync.WaitGroup
				for _, s := range sessions {
					stopping.Go(func() { assert.NoError(t, s.Stop(ctx)) })
				}
				stopping.Wait()
			})
			ticker := time.NewTicker(herdPolling / herd)
			defer ticker.Stop()
			for i := range herd {
				<-ticker.C
				usual, _ := settings(t, transport, endpoint)
				// Not what other tests change of it: the pauses are what is tested.
				set := session.Settings{
					Transport: transport, Endpoint: endpoint, PollingInterval: herdPolling,
					Capabilities: usual.Capabilities, Initial: usual.Initial, Callback: usual.Callback, Log: usual.Log,
				}
				binary.BigEndian.PutUint64(set.InstanceUID[:], uint64(i+1)) // 0 is no UID
				set.Callback.ConnectFailed = func(error) {}                 // expected, more often than anybody reads
				s, err := session.Start(t.Context(), set)
				require.NoError(t, err)
				sessions = append(sessions, s)
			}
			first.await(t, "all agents are there")

			first.stopListening()
			again, _ := listenHerd(t, addr)
			t.Cleanup(func() { again.stopListening(); again.disconnect() })
			begin := time.Now()
			first.disconnect()
			again.await(t, "all agents are back")
			t.Logf("all %d were back after %s; at most %d connections in 100 ms, %d in a second",
				herd, time.Since(begin).Round(time.Millisecond), again.peak(100*time.Millisecond), again.peak(time.Second))
			assert.LessOrEqual(t, again.peak(time.Second), herdPeak, "connections in a second")
		})
	}
}

func (s *herdServer) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-s.all:
	case <-time.After(herdBack):
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Fatalf("waiting until %s: %d of %d", what, len(s.agents), herd)
	}
}
