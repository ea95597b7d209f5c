package session_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitTime bounds every wait; it is only reached by a failing test.
const waitTime = 20 * time.Second

// opampServer answers with what the test sets and hands over what it receives.
type opampServer struct {
	url      func(session.Transport) string
	received chan *protobufs.AgentToServer

	mu     sync.Mutex // guards everything below
	answer *protobufs.ServerToAgent
	header http.Header // of the last connection attempt
	conns  map[types.Connection]bool
}

// startServer starts a server; with an option it speaks TLS.
func startServer(t *testing.T, wrap func(http.Handler) http.Handler, options ...func(*httptest.Server)) *opampServer {
	t.Helper()
	s := &opampServer{received: make(chan *protobufs.AgentToServer, 100), answer: &protobufs.ServerToAgent{}, conns: map[types.Connection]bool{}}
	srv := server.New(nil)
	handler, connContext, err := srv.Attach(server.Settings{Callbacks: types.Callbacks{
		OnConnecting: func(r *http.Request) types.ConnectionResponse {
			s.mu.Lock()
			s.header = r.Header.Clone()
			s.mu.Unlock()
			return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
				OnConnected: func(_ context.Context, c types.Connection) {
					s.mu.Lock()
					s.conns[c] = true
					s.mu.Unlock()
				},
				OnMessage: func(_ context.Context, _ types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
					s.received <- m
					s.mu.Lock()
					defer s.mu.Unlock()
					answer := proto.Clone(s.answer).(*protobufs.ServerToAgent) // the library writes to it
					answer.InstanceUid = m.GetInstanceUid()
					return answer
				},
			}}
		},
	}})
	require.NoError(t, err)
	var h http.Handler = http.HandlerFunc(handler)
	if wrap != nil {
		h = wrap(h)
	}
	web := httptest.NewUnstartedServer(h)
	web.Config.ConnContext = connContext
	for _, o := range options {
		o(web)
	}
	if len(options) > 0 {
		web.StartTLS()
	} else {
		web.Start()
	}
	t.Cleanup(func() {
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Disconnect()
		}
		s.mu.Unlock()
		web.Close()
	})
	s.url = func(transport session.Transport) string {
		return string(transport) + strings.TrimPrefix(web.URL, "http") + "/v1/opamp"
	}
	return s
}

func (s *opampServer) next(t *testing.T) *protobufs.AgentToServer {
	t.Helper()
	select {
	case m := <-s.received:
		return m
	case <-time.After(waitTime):
		t.Fatal("no message arrived")
		return nil
	}
}

type events struct {
	offers chan remoteconfig.Offer
	failed chan error

	restarts chan struct{}
	uids     chan [16]byte
	settings chan connsettings.Offer
}

func settings(t *testing.T, transport session.Transport, endpoint string) (session.Settings, *events) {
	t.Helper()
	e := &events{offers: make(chan remoteconfig.Offer, 10), failed: make(chan error, 1000), restarts: make(chan struct{}, 10), uids: make(chan [16]byte, 10), settings: make(chan connsettings.Offer, 1000)}
	set := session.Settings{
		Transport:       transport,
		Endpoint:        endpoint,
		PollingInterval: 20 * time.Millisecond,
		InstanceUID:     [16]byte{1, 2, 3},
		Capabilities:    session.Capabilities{EffectiveConfig: true, Health: true, AvailableComponents: true, Heartbeat: true, RemoteConfig: true},
		Initial: session.State{
			Description:     session.Description{Identifying: map[string]any{"service.name": "x"}, NonIdentifying: map[string]any{"n": int64(1), "b": true}},
			Health:          health.Node{Healthy: true, Status: "StatusOK\xff", Parts: map[string]health.Node{"p": {LastError: "e"}}},
			EffectiveConfig: []byte("a: b\n"),
			Components:      session.Components{"receivers": {"otlp": "mod v1"}},
			RemoteConfig:    session.RemoteConfigStatus{Hash: []byte("h"), State: session.Failed, Message: "why"},
		},
		Callback: session.Callbacks{
			Connected:     func() {},
			ConnectFailed: func(err error) { e.failed <- err },
			ServerError:   func(string, string) {},
			Offered:       func(o remoteconfig.Offer) { e.offers <- o },
			Restart:       func() { e.restarts <- struct{}{} },
			Identified:    func(uid [16]byte) { e.uids <- uid },
			Answered:      func() {},
			Settings:      func(o connsettings.Offer) { e.settings <- o },
		},
		Log: nopLogger{},
	}
	times := session.DefaultTimes()
	times.First, times.Longest, times.Busy = 20*time.Millisecond, 200*time.Millisecond, 20*time.Millisecond
	set.SetTimes(times)
	return set, e
}

type nopLogger struct{}

func (nopLogger) Debugf(string, ...any) {}
func (nopLogger) Errorf(string, ...any) {}

func start(t *testing.T, set session.Settings) *session.Session {
	t.Helper()
	s, err := session.Start(t.Context(), set)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		assert.NoError(t, s.Stop(ctx))
	})
	return s
}

// Conformance: 1, 24, 25, 27, 35
func TestReportsAndOffers(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			server := startServer(t, nil)
			server.answer.RemoteConfig = &protobufs.AgentRemoteConfig{
				ConfigHash: []byte("new"),
				Config: &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigObject{
					"":  {Body: []byte("x: 1"), ContentType: "text/yaml"},
					"a": {Body: []byte("y: 2")},
				}},
			}
			set, events := settings(t, transport, server.url(transport))
			s := start(t, set)

			first := server.next(t)
			assert.Equal(t, set.InstanceUID[:], first.GetInstanceUid())
			assert.Equal(t, "a: b\n", string(first.GetEffectiveConfig().GetConfigMap().GetConfigMap()[""].GetBody()))
			assert.Equal(t, "why", first.GetRemoteConfigStatus().GetErrorMessage())
			assert.Equal(t, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED, first.GetRemoteConfigStatus().GetStatus())
			assert.Equal(t, "StatusOK�", first.GetHealth().GetStatus(), "invalid UTF-8 does not cost the message")
			assert.NotEmpty(t, first.GetAvailableComponents().GetHash())
			assert.Equal(t, uint64(0x7807), first.GetCapabilities()&^uint64(0), "no capability but the announced ones")

			select {
			case offer := <-events.offers:
				assert.Equal(t, "new", string(offer.Hash()))
				assert.Len(t, offer.Files(), 2)
			case <-time.After(waitTime):
				t.Fatal("no offer arrived")
			}

			require.NoError(t, s.SetRemoteConfigStatus(session.RemoteConfigStatus{Hash: []byte("new"), State: session.Applied}))
			for {
				if status := server.next(t).GetRemoteConfigStatus(); status.GetStatus() == protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED {
					assert.Equal(t, "new", string(status.GetLastRemoteConfigHash()))
					break
				}
			}
			require.NoError(t, s.SetEffectiveConfig(t.Context(), []byte("c: d\n")))
			for {
				if effective := server.next(t).GetEffectiveConfig(); effective != nil && string(effective.GetConfigMap().GetConfigMap()[""].GetBody()) == "c: d\n" {
					break
				}
			}
		})
	}
}

// Conformance: 49, 70
func TestOfferIsIgnoredWithoutTheCapability(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	server.answer.RemoteConfig = &protobufs.AgentRemoteConfig{ConfigHash: []byte("new")}
	set, events := settings(t, session.HTTP, server.url(session.HTTP))
	set.Capabilities.RemoteConfig = false
	start(t, set)
	for range 3 { // the answers to the first two have been processed by then
		server.next(t)
	}
	assert.Empty(t, events.offers)
}

// TestNothingIsSentWithoutAuthorization: an auth extension that fails must not
// lead to requests without credentials.
//
// Conformance: E4
func TestNothingIsSentWithoutAuthorization(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			server := startServer(t, nil)
			set, events := settings(t, transport, server.url(transport))
			var mu sync.Mutex
			fail := true
			set.Authorize = func(session.Request) (http.Header, error) {
				mu.Lock()
				defer mu.Unlock()
				if fail {
					return nil, errors.New("the token endpoint is down")
				}
				return http.Header{"authorization": {"Bearer token"}}, nil
			}
			start(t, set)
			select {
			case err := <-events.failed:
				require.ErrorContains(t, err, "the token endpoint is down")
			case <-time.After(waitTime):
				t.Fatal("the failure was not reported")
			}
			server.mu.Lock()
			assert.Nil(t, server.header, "a request went out")
			server.mu.Unlock()

			mu.Lock()
			fail = false
			mu.Unlock()
			server.next(t)
			server.mu.Lock()
			assert.Equal(t, "Bearer token", server.header.Get("Authorization"))
			server.mu.Unlock()
		})
	}
}

// Conformance: 16
func TestRedirectToAnotherHostIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			other := startServer(t, nil)
			server := startServer(t, func(http.Handler) http.Handler {
				return http.RedirectHandler(strings.Replace(other.url(session.HTTP), "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect)
			})
			set, events := settings(t, transport, server.url(transport))
			start(t, set)
			deadline := time.After(waitTime)
			for {
				select {
				case err := <-events.failed:
					if !strings.Contains(err.Error(), "redirects to another host") {
						continue
					}
				case <-deadline:
					t.Fatal("the redirect was not refused")
				}
				break
			}
			other.mu.Lock()
			defer other.mu.Unlock()
			assert.Nil(t, other.header)
		})
	}
}

// Conformance: 20, 21
func TestMessageThatIsTooLargeIsNotTaken(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			server := startServer(t, nil)
			server.answer.RemoteConfig = &protobufs.AgentRemoteConfig{
				ConfigHash: []byte("big"),
				Config: &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigObject{
					"": {Body: make([]byte, 17<<20)},
				}},
			}
			set, events := settings(t, transport, server.url(transport))
			start(t, set)
			server.next(t)
			server.next(t) // it comes back
			assert.Empty(t, events.offers)
		})
	}
}

// The server may restart the Collector.
//
// Conformance: 145, 0x0400
func TestRestartCommand(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		s := startServer(t, nil)
		set, e := settings(t, transport, s.url(transport))
		s.reply(&protobufs.ServerToAgent{Command: &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart}})
		set.Capabilities.Restart = true
		start(t, set)
		caps := s.next(t).GetCapabilities()
		assert.NotZero(t, caps&uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsRestartCommand))
		select {
		case <-e.restarts:
		case <-time.After(waitTime):
			t.Fatal("the command was not heard")
		}
	}
}

func TestRestartCommandIsIgnoredWithoutTheCapability(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	set, e := settings(t, session.WebSocket, s.url(session.WebSocket))
	s.reply(&protobufs.ServerToAgent{
		Command:      &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart},
		RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("x"), Config: &protobufs.AgentConfigMap{}},
	})
	start(t, set)
	select {
	case <-e.offers: // what came with the command is taken
	case <-time.After(waitTime):
		t.Fatal("the offer was not heard")
	}
	assert.Empty(t, e.restarts)
}

// The server may be asked for an instance UID, and what it gives is used.
//
// Conformance: 39, 40
func TestInstanceUIDOfTheServer(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		s := startServer(t, nil)
		set, e := settings(t, transport, s.url(transport))
		given := [16]byte{7, 7, 7}
		s.reply(&protobufs.ServerToAgent{AgentIdentification: &protobufs.AgentIdentification{NewInstanceUid: given[:]}})
		set.RequestInstanceUID = true
		sess := start(t, set)
		first := s.next(t)
		assert.Equal(t, set.InstanceUID[:], first.GetInstanceUid())
		assert.NotZero(t, first.GetFlags()&uint64(protobufs.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid))
		select {
		case uid := <-e.uids:
			assert.Equal(t, given, uid)
		case <-time.After(waitTime):
			t.Fatal("the UID was not heard")
		}
		require.NoError(t, sess.SetHealth(health.Node{}))
		s.until(t, func(m *protobufs.AgentToServer) bool { return bytes.Equal(m.GetInstanceUid(), given[:]) })
	}
}

// What a server offers does not change the interval before the agent has accepted
// it, and 0 does not end heartbeats.
//
// Conformance: 58, 61, 62
func TestIntervalIsTheAgents(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for name, capability := range map[string]bool{"with the capability": true, "without": false} {
			for _, offered := range []uint64{0, 3600} {
				t.Run(name+" "+strconv.FormatUint(offered, 10), func(t *testing.T) {
					t.Parallel()
					s := startServer(t, nil)
					set, _ := settings(t, transport, s.url(transport))
					s.reply(&protobufs.ServerToAgent{ConnectionSettings: &protobufs.ConnectionSettingsOffers{
						Hash:  []byte("h"),
						Opamp: &protobufs.OpAMPConnectionSettings{HeartbeatIntervalSeconds: offered},
					}})
					set.Capabilities.OpAMPSettings = capability
					// A tenth of a second ends a wait of an hour only if somebody notices.
					set.HeartbeatInterval = 250 * time.Millisecond
					set.PollingInterval = 250 * time.Millisecond
					start(t, set)
					s.next(t)
					for range 4 {
						m := s.until(t, func(m *protobufs.AgentToServer) bool {
							return m.GetConnectionSettingsStatus() == nil // the client reports Applying
						})
						assert.Equal(t, set.InstanceUID[:], m.GetInstanceUid())
						assert.Nil(t, m.GetAgentDescription())
						assert.Nil(t, m.GetEffectiveConfig())
						assert.Nil(t, m.GetHealth())
					}
				})
			}
		}
	})
}

// Agents that did something together do not send their heartbeats together for ever,
// and none sends them later than it was told.
//
// Conformance: 58
func TestHeartbeatsSpread(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	different := map[time.Duration]bool{}
	const sessions = 5 // of 3000 intervals each: all the same is a thing that does not happen
	for range sessions {
		set, _ := settings(t, session.WebSocket, s.url(session.WebSocket))
		interval := start(t, set).HeartbeatInterval()
		assert.LessOrEqual(t, interval, 30*time.Second)
		assert.GreaterOrEqual(t, interval, 27*time.Second)
		different[interval] = true
	}
	assert.Greater(t, len(different), 1)
}

// What this package finds in the client is there in the version in use.
func TestInsideOfTheClient(t *testing.T) {
	t.Parallel()
	set, known := session.HeartbeatsOf(client.NewWebSocket(nil))
	assert.True(t, set)
	assert.True(t, known)
	set, known = session.HeartbeatsOf(client.NewHTTP(nil))
	assert.False(t, set && known, "over HTTP nobody can end them")
	dialer, state := session.Finds(client.NewWebSocket(nil))
	assert.True(t, dialer)
	assert.True(t, state)
	_, state = session.Finds(client.NewHTTP(nil))
	assert.True(t, state)
}

// Reports that are too large, or no UTF-8, are trimmed and marked, never lost.
//
// Conformance: 22
func TestReportsAreTrimmed(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, s.url(session.WebSocket))
	set.Initial.EffectiveConfig = []byte(strings.Repeat("key: value\n", 2<<20))
	set.Initial.Description.NonIdentifying["long"] = strings.Repeat("x\xff", 1<<20)
	parts := map[string]health.Node{}
	for i := range 100 {
		components := map[string]health.Node{}
		for j := range 100 {
			components[strconv.Itoa(j)] = health.Node{LastError: strings.Repeat("e", 2000)}
		}
		parts["pipeline:"+strconv.Itoa(i)] = health.Node{Parts: components, LastError: "e"}
	}
	set.Initial.Health = health.Node{Status: "StatusOK", Parts: parts}
	start(t, set)
	m := s.next(t)
	body := string(m.GetEffectiveConfig().GetConfigMap().GetConfigMap()[""].GetBody())
	assert.Less(t, len(body), 3<<20)
	assert.True(t, strings.HasSuffix(body, "key: value\n# trimmed: the configuration has 23068672 bytes, of which a report takes 2621440\n"), body[len(body)-200:])
	for _, kv := range m.GetAgentDescription().GetNonIdentifyingAttributes() {
		if kv.GetKey() == "long" {
			assert.True(t, strings.HasSuffix(kv.GetValue().GetStringValue(), "[…]"))
			assert.Less(t, len(kv.GetValue().GetStringValue()), 10<<10)
		}
	}
	assert.Equal(t, "StatusOK; trimmed", m.GetHealth().GetStatus())
	assert.Len(t, m.GetHealth().GetComponentHealthMap(), 100)
}
