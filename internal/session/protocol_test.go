package session_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// transports runs the test over each of them.
func transports(t *testing.T, f func(t *testing.T, transport session.Transport)) {
	t.Helper()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			f(t, transport)
		})
	}
}

// until returns the first message that matches.
func (s *opampServer) until(t *testing.T, match func(*protobufs.AgentToServer) bool) *protobufs.AgentToServer {
	t.Helper()
	// Others may go on arriving for ever.
	for deadline := time.Now().Add(waitTime); time.Now().Before(deadline); {
		if m := s.next(t); match(m) {
			return m
		}
	}
	t.Fatal("no such message arrived")
	return nil
}

// reply sets what the server answers from now on.
func (s *opampServer) reply(m *protobufs.ServerToAgent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = m
}

// TestCapabilitiesAreThoseInForce: each is announced, and its report sent, if and
// only if it is on.
//
// Conformance: 47, 79, 0x0001, 0x0002, 0x0004, 0x0020, 0x0040, 0x0080, 0x0100, 0x0200, 0x0800, 0x1000, 0x2000, 0x4000, 0x8000
func TestCapabilitiesAreThoseInForce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		on   session.Capabilities
		bits uint64
	}{
		"none":                 {session.Capabilities{}, 0x0001},
		"effective config":     {session.Capabilities{EffectiveConfig: true}, 0x0001 | 0x0004},
		"health":               {session.Capabilities{Health: true}, 0x0001 | 0x0800},
		"available components": {session.Capabilities{AvailableComponents: true}, 0x0001 | 0x4000},
		"heartbeat":            {session.Capabilities{Heartbeat: true}, 0x0001 | 0x2000},
		"remote config":        {session.Capabilities{RemoteConfig: true}, 0x0001 | 0x0002 | 0x1000},
		"own traces":           {session.Capabilities{OwnTraces: true}, 0x0001 | 0x0020 | 0x8000},
		"own metrics":          {session.Capabilities{OwnMetrics: true}, 0x0001 | 0x0040 | 0x8000},
		"own logs":             {session.Capabilities{OwnLogs: true}, 0x0001 | 0x0080 | 0x8000},
		"OpAMP connection":     {session.Capabilities{OpAMPSettings: true}, 0x0001 | 0x0100 | 0x8000},
		"other connections":    {session.Capabilities{OtherSettings: true}, 0x0001 | 0x0200 | 0x8000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startServer(t, nil)
			set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
			set.Capabilities = tt.on
			set.Initial.Settings = session.SettingsStatus{Hash: []byte("s"), State: session.Applied}
			if !tt.on.EffectiveConfig {
				set.Initial.EffectiveConfig = nil
			}
			if !tt.on.RemoteConfig {
				set.Initial.RemoteConfig = session.RemoteConfigStatus{}
			}
			start(t, set)
			first := server.next(t)
			assert.Equal(t, tt.bits, first.GetCapabilities())
			assert.Equal(t, tt.on.EffectiveConfig, first.GetEffectiveConfig() != nil)
			assert.Equal(t, tt.on.Health, first.GetHealth() != nil)
			assert.Equal(t, tt.on.AvailableComponents, first.GetAvailableComponents() != nil)
			assert.Equal(t, tt.on.RemoteConfig, len(first.GetRemoteConfigStatus().GetLastRemoteConfigHash()) > 0)
			assert.Equal(t, tt.bits&0x8000 != 0, len(first.GetConnectionSettingsStatus().GetLastConnectionSettingsHash()) > 0)
		})
	}
}

// TestFullStateOnRequest: a server that asks is told everything, as it is by then.
//
// Conformance: 31, 57, 67, 68
func TestFullStateOnRequest(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		set, _ := settings(t, transport, server.url(transport))
		s := start(t, set)
		server.next(t)
		require.NoError(t, s.SetHealth(health.Node{Healthy: false, LastError: "ill"}))
		server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetHealth() != nil })
		server.reply(&protobufs.ServerToAgent{Flags: uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)})
		require.NoError(t, s.SetEffectiveConfig(t.Context(), []byte("c: d\n"))) // makes it ask over WebSocket
		full := server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetAgentDescription() != nil })
		server.reply(&protobufs.ServerToAgent{})
		assert.Equal(t, "service.name", full.GetAgentDescription().GetIdentifyingAttributes()[0].GetKey())
		assert.Equal(t, "ill", full.GetHealth().GetLastError())
		assert.Equal(t, "why", full.GetRemoteConfigStatus().GetErrorMessage())
		assert.NotEmpty(t, full.GetAvailableComponents().GetHash())
		files := full.GetEffectiveConfig().GetConfigMap().GetConfigMap()
		require.Len(t, files, 1)
		assert.Equal(t, "c: d\n", string(files[""].GetBody()))
		assert.Equal(t, "text/yaml", files[""].GetContentType())
	})
}

// TestAvailableComponentsAreSentOnRequest: the first message has their hash only.
//
// Conformance: 81, 82, 83
func TestAvailableComponentsAreSentOnRequest(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		server.answer.Flags = uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportAvailableComponents)
		set, _ := settings(t, transport, server.url(transport))
		start(t, set)
		first := server.next(t).GetAvailableComponents()
		assert.Empty(t, first.GetComponents())
		all := server.until(t, func(m *protobufs.AgentToServer) bool { return len(m.GetAvailableComponents().GetComponents()) > 0 })
		server.reply(&protobufs.ServerToAgent{})
		assert.Equal(t, first.GetHash(), all.GetAvailableComponents().GetHash())
		otlp := all.GetAvailableComponents().GetComponents()["receivers"].GetSubComponentMap()["otlp"]
		require.Len(t, otlp.GetMetadata(), 1)
		assert.Equal(t, "code.namespace", otlp.GetMetadata()[0].GetKey())
		assert.Equal(t, "mod v1", otlp.GetMetadata()[0].GetValue().GetStringValue())
	})
}

// TestHashOfComponents depends on the components and on nothing else.
//
// Conformance: 80
func TestHashOfComponents(t *testing.T) {
	t.Parallel()
	hash := func(c session.Components) string {
		server := startServer(t, nil)
		set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
		set.Initial.Components = c
		start(t, set)
		return string(server.next(t).GetAvailableComponents().GetHash())
	}
	want := hash(session.Components{"receivers": {"a": "m v1", "b": "m v1"}, "exporters": {"c": "m v1"}})
	assert.Equal(t, want, hash(session.Components{"exporters": {"c": "m v1"}, "receivers": {"b": "m v1", "a": "m v1"}}))
	assert.NotEqual(t, want, hash(session.Components{"receivers": {"a": "m v1", "b": "m v2"}, "exporters": {"c": "m v1"}}))
	assert.NotEqual(t, want, hash(session.Components{"receivers": {"a": "m v1"}, "exporters": {"c": "m v1", "b": "m v1"}}))
}

// TestOnlyWhatChangedIsSent: a report of one thing leaves out the others.
//
// Conformance: 27, 32, 46, 66
func TestOnlyWhatChangedIsSent(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		set, _ := settings(t, transport, server.url(transport))
		s := start(t, set)
		server.next(t)
		require.NoError(t, s.SetHealth(health.Node{Healthy: true, Status: "changed"}))
		m := server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetHealth() != nil })
		assert.Equal(t, "changed", m.GetHealth().GetStatus())
		assert.Nil(t, m.GetAgentDescription())
		assert.Nil(t, m.GetEffectiveConfig())
		assert.Nil(t, m.GetRemoteConfigStatus())
		assert.Nil(t, m.GetAvailableComponents())
		require.NoError(t, s.SetDescription(session.Description{Identifying: map[string]any{"service.name": "y"}}))
		m = server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetAgentDescription() != nil })
		assert.Nil(t, m.GetHealth())
	})
}

// TestReconnectGoesOnWithTheSequence: after a connection that broke the agent is
// the same, and counts on.
//
// Conformance: 26, 29, 30
func TestReconnectGoesOnWithTheSequence(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	s := start(t, set)
	first := server.next(t)
	require.NoError(t, s.SetHealth(health.Node{Status: "second"}))
	second := server.next(t)
	server.mu.Lock()
	for c := range server.conns {
		require.NoError(t, c.Disconnect())
	}
	server.mu.Unlock()
	third := server.next(t)
	assert.Equal(t, first.GetSequenceNum()+1, second.GetSequenceNum())
	assert.Equal(t, first.GetSequenceNum()+2, third.GetSequenceNum())
	for _, m := range []*protobufs.AgentToServer{first, second, third} {
		assert.Equal(t, set.InstanceUID[:], m.GetInstanceUid())
		assert.Equal(t, first.GetCapabilities(), m.GetCapabilities())
	}
	assert.Nil(t, third.GetAgentDescription(), "the server that wants it asks")
}

// turnAway answers the first request, or attempt to connect, itself.
type turnAway struct {
	mu       sync.Mutex
	times    []time.Time // of all requests
	attempts int
	answer   func(w http.ResponseWriter, r *http.Request) (done bool)
}

func (a *turnAway) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.attempts++
		a.times = append(a.times, time.Now())
		a.mu.Unlock()
		if !a.answer(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// TestRetryAfterIsHonoured: a server that is busy is left alone for as long as it
// wants.
//
// Conformance: 152
func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			transports(t, func(t *testing.T, transport session.Transport) {
				var refused atomic.Bool
				a := &turnAway{answer: func(w http.ResponseWriter, _ *http.Request) bool {
					if refused.Swap(true) {
						return false
					}
					w.Header().Set("Retry-After", "2")
					w.WriteHeader(status)
					return true
				}}
				server := startServer(t, a.wrap)
				set, _ := settings(t, transport, server.url(transport))
				start(t, set)
				server.next(t)
				a.mu.Lock()
				defer a.mu.Unlock()
				require.GreaterOrEqual(t, len(a.times), 2)
				assert.GreaterOrEqual(t, a.times[1].Sub(a.times[0]), 2*time.Second)
			})
		})
	}
}

// TestRejectedCredentialsAreAskedForAgain: after a 401 the next attempt has the
// credentials of its own time.
//
// Conformance: 156
func TestRejectedCredentialsAreAskedForAgain(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		a := &turnAway{answer: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == "Bearer fresh" {
				return false
			}
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}}
		server := startServer(t, a.wrap)
		set, _ := settings(t, transport, server.url(transport))
		var asked atomic.Int32
		set.Authorize = func(session.Request) (http.Header, error) {
			if asked.Add(1) == 1 {
				return http.Header{"Authorization": {"Bearer stale"}}, nil
			}
			return http.Header{"Authorization": {"Bearer fresh"}}, nil
		}
		start(t, set)
		server.next(t)
		a.mu.Lock()
		defer a.mu.Unlock()
		assert.GreaterOrEqual(t, a.attempts, 2)
	})
}

// TestErrorResponseIsTold, and the message that caused it is not sent again.
//
// Conformance: 35, 155
func TestErrorResponseIsTold(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	server.answer.ErrorResponse = &protobufs.ServerErrorResponse{
		Type:         protobufs.ServerErrorResponseType_ServerErrorResponseType_BadRequest,
		ErrorMessage: "no such field",
	}
	set, _ := settings(t, session.HTTP, server.url(session.HTTP))
	told := make(chan string, 1000)
	set.Callback.ServerError = func(kind, message string) { told <- kind + ": " + message }
	start(t, set)
	first := server.next(t)
	for range 3 {
		m := server.next(t)
		assert.NotEqual(t, first.GetSequenceNum(), m.GetSequenceNum())
		assert.Nil(t, m.GetAgentDescription())
	}
	select {
	case text := <-told:
		assert.Equal(t, "ServerErrorResponseType_BadRequest: no such field", text)
	case <-time.After(waitTime):
		t.Fatal("the error was not told")
	}
}

// TestLastMessageSaysGoodbye: the server need not wait for a time-out to know that
// the agent has gone.
//
// Conformance: 158
func TestLastMessageSaysGoodbye(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	s, err := session.Start(t.Context(), set)
	require.NoError(t, err)
	assert.Nil(t, server.next(t).GetAgentDisconnect())
	ctx, cancel := context.WithTimeout(t.Context(), waitTime)
	defer cancel()
	require.NoError(t, s.Stop(ctx))
	assert.NotNil(t, server.next(t).GetAgentDisconnect())
}

// rawServer is an HTTP server that sees the bytes.
func rawServer(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, m *protobufs.AgentToServer)) string {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		m := &protobufs.AgentToServer{}
		if err != nil || !assert.NoError(t, proto.Unmarshal(body, m)) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		handle(w, r, m)
	}))
	t.Cleanup(web.Close)
	return web.URL + "/v1/opamp"
}

// TestHTTPRequests are what the protocol wants: POST, one at a time, also when
// there is nothing to say.
//
// Conformance: 7, 8, 11, 12, 14
func TestHTTPRequests(t *testing.T) {
	t.Parallel()
	const polls = 4
	var inFlight atomic.Int32
	done := make(chan struct{})
	var next uint64
	url := rawServer(t, func(w http.ResponseWriter, r *http.Request, m *protobufs.AgentToServer) {
		if inFlight.Add(1) > 1 {
			t.Error("two requests at a time")
		}
		defer inFlight.Add(-1)
		assert.Equal(t, http.MethodPost, r.Method)
		assert.Equal(t, "/v1/opamp", r.URL.Path)
		assert.Equal(t, "application/x-protobuf", r.Header.Get("Content-Type"))
		assert.Equal(t, "01020300-0000-0000-0000-000000000000", r.Header.Get("OpAMP-Instance-UID"))
		assert.Equal(t, next, m.GetSequenceNum())
		next++
		if next == polls {
			close(done)
		}
		w.Header().Set("Content-Type", "application/x-protobuf") // of no bytes: an empty message
	})
	set, _ := settings(t, session.HTTP, url)
	start(t, set)
	select {
	case <-done:
	case <-time.After(waitTime):
		t.Fatal("the agent does not poll")
	}
}

// TestRequestThatIsTooLargeIsNotRepeated: the server said 413, so it would say so
// again.
//
// Conformance: 23
func TestRequestThatIsTooLargeIsNotRepeated(t *testing.T) {
	t.Parallel()
	numbers := make(chan uint64, 1000)
	url := rawServer(t, func(w http.ResponseWriter, _ *http.Request, m *protobufs.AgentToServer) {
		numbers <- m.GetSequenceNum()
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	set, _ := settings(t, session.HTTP, url)
	start(t, set)
	for want := range uint64(3) {
		select {
		case n := <-numbers:
			require.Equal(t, want, n)
		case <-time.After(waitTime):
			t.Fatal("the agent does not poll any more")
		}
	}
}

// TestAnswerThatIsTooLargeOnceUnpacked is not taken, however short it comes.
//
// Conformance: 21
func TestAnswerThatIsTooLargeOnceUnpacked(t *testing.T) {
	t.Parallel()
	answer := func(size int) []byte {
		plain, err := proto.Marshal(&protobufs.ServerToAgent{RemoteConfig: &protobufs.AgentRemoteConfig{
			ConfigHash: []byte("big"),
			Config: &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigObject{
				"": {Body: make([]byte, size)},
			}},
		}})
		require.NoError(t, err)
		return packed(t, plain)
	}
	bodies := map[bool][]byte{true: answer(4 << 20), false: answer(6 << 20)} // the limit is 5 MiB
	for taken, body := range bodies {
		t.Run(strconv.FormatBool(taken), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			done := make(chan struct{})
			url := rawServer(t, func(w http.ResponseWriter, _ *http.Request, _ *protobufs.AgentToServer) {
				if requests.Add(1) == 3 { // the answers to the first two have been looked at
					close(done)
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Type", "application/x-protobuf")
				_, _ = w.Write(body) // the agent may hang up
			})
			set, events := settings(t, session.HTTP, url)
			set.Callback.Offered = func(o remoteconfig.Offer) {
				select {
				case events.offers <- o:
				default:
				}
			}
			start(t, set)
			select {
			case <-done:
			case <-time.After(waitTime):
				t.Fatal("the agent does not poll any more")
			}
			assert.Equal(t, taken, len(events.offers) > 0)
		})
	}
}

// packed compresses.
func packed(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(plain)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

// TestAnswersAreUnderstood in the forms that a server may choose: compressed, or
// with fields of a later version of the protocol.
//
// Conformance: 10, 51
func TestAnswersAreUnderstood(t *testing.T) {
	t.Parallel()
	plain, err := proto.Marshal(&protobufs.ServerToAgent{RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("new")}})
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		encoding string
		body     []byte
	}{
		"gzip":           {"gzip", packed(t, plain)},
		"unknown fields": {"", protowire.AppendString(protowire.AppendTag(bytes.Clone(plain), 9999, protowire.BytesType), "later")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := rawServer(t, func(w http.ResponseWriter, r *http.Request, _ *protobufs.AgentToServer) {
				if tt.encoding != "" {
					assert.Contains(t, r.Header.Get("Accept-Encoding"), tt.encoding)
					w.Header().Set("Content-Encoding", tt.encoding)
				}
				w.Header().Set("Content-Type", "application/x-protobuf")
				_, _ = w.Write(tt.body) // the last ones may come after the agent has gone
			})
			set, events := settings(t, session.HTTP, url)
			start(t, set)
			select {
			case offer := <-events.offers:
				assert.Equal(t, "new", string(offer.Hash()))
			case <-time.After(waitTime):
				t.Fatal("no offer arrived")
			}
		})
	}
}

// TestConfigurationThatIsSetWhileTheClientPrepares: the client replaces it by what it
// fetched before.
func TestConfigurationThatIsSetWhileTheClientPrepares(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	started := make(chan *session.Session, 1)
	var once sync.Once
	set.OnFetch(func() {
		once.Do(func() {
			assert.NoError(t, (<-started).SetEffectiveConfig(t.Context(), []byte("c: d\n")))
		})
	})
	started <- start(t, set)
	body := func(m *protobufs.AgentToServer) string {
		return string(m.GetEffectiveConfig().GetConfigMap().GetConfigMap()[""].GetBody())
	}
	assert.Equal(t, "a: b\n", body(server.next(t)), "what was fetched")
	server.until(t, func(m *protobufs.AgentToServer) bool { return body(m) == "c: d\n" })
}
