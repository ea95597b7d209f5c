package session_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// allSettings announces all connection settings.
func allSettings(c session.Capabilities) session.Capabilities {
	c.OpAMPSettings, c.OtherSettings = true, true
	c.OwnMetrics, c.OwnTraces, c.OwnLogs = true, true, true
	return c
}

func (e *events) nextSettings(t *testing.T) connsettings.Offer {
	t.Helper()
	select {
	case o := <-e.settings:
		return o
	case <-time.After(waitTime):
		t.Fatal("no offer of connection settings arrived")
		return connsettings.Offer{}
	}
}

// settingsStatus returns the next status of connection settings.
func (s *opampServer) settingsStatus(t *testing.T) (hash, status string) {
	t.Helper()
	m := s.until(t, func(m *protobufs.AgentToServer) bool { return m.GetConnectionSettingsStatus() != nil }).GetConnectionSettingsStatus()
	name := map[protobufs.ConnectionSettingsStatuses]string{
		protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING: "applying",
		protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED:  "applied",
		protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED:   "failed",
	}[m.GetStatus()]
	if m.GetErrorMessage() != "" {
		name += ": " + m.GetErrorMessage()
	}
	return string(m.GetLastConnectionSettingsHash()), name
}

func headers(keysAndValues ...string) *protobufs.Headers {
	h := &protobufs.Headers{}
	for kv := range slices.Chunk(keysAndValues, 2) {
		h.Headers = append(h.Headers, &protobufs.Header{Key: kv[0], Value: kv[1]})
	}
	return h
}

func fullOffer() (*protobufs.ConnectionSettingsOffers, connsettings.Offer) {
	sent := &protobufs.ConnectionSettingsOffers{
		Hash: []byte{0, 0xff},
		Opamp: &protobufs.OpAMPConnectionSettings{
			DestinationEndpoint:      "wss://server.example/v1/opamp",
			Headers:                  headers("authorization", "Bearer x", "x-many", "1", "X-Many", "2"),
			Certificate:              &protobufs.TLSCertificate{Cert: []byte("cert"), PrivateKey: []byte("key"), CaCert: []byte("ca")},
			HeartbeatIntervalSeconds: 7,
			Tls: &protobufs.TLSConnectionSettings{
				CaPemContents: "pem", IncludeSystemCaCertsPool: true, InsecureSkipVerify: true,
				MinVersion: "1.2", MaxVersion: "TLSv1.3", CipherSuites: []string{"a", "b"},
			},
			Proxy: &protobufs.ProxyConnectionSettings{Url: "http://proxy.example:3128", ConnectHeaders: headers("x-proxy", "p")},
		},
		OwnMetrics: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://metrics.example", Headers: headers("k", "v")},
		OwnTraces:  &protobufs.TelemetryConnectionSettings{},
		OwnLogs:    &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://logs.example", Tls: &protobufs.TLSConnectionSettings{}},
		OtherConnections: map[string]*protobufs.OtherConnectionSettings{
			"backend": {DestinationEndpoint: "https://backend.example", OtherSettings: map[string]string{"tenant": "t"}},
			"none":    {},
		},
	}
	want := connsettings.Offer{
		Hash: []byte{0, 0xff},
		OpAMP: &connsettings.Connection{
			Endpoint:    "wss://server.example/v1/opamp",
			Headers:     http.Header{"Authorization": {"Bearer x"}, "X-Many": {"1", "2"}},
			Certificate: &connsettings.Certificate{Cert: []byte("cert"), Key: []byte("key")}, // what it comes with is no authority
			TLS: &connsettings.TLS{
				CA: []byte("pem"), SystemCAs: true, InsecureSkipVerify: true,
				MinVersion: "1.2", MaxVersion: "TLSv1.3", CipherSuites: []string{"a", "b"},
			},
			Proxy:     &connsettings.Proxy{URL: "http://proxy.example:3128", ConnectHeaders: http.Header{"X-Proxy": {"p"}}},
			Heartbeat: 7 * time.Second,
		},
		Own: map[connsettings.Signal]connsettings.Connection{
			connsettings.Metrics: {Endpoint: "https://metrics.example", Headers: http.Header{"K": {"v"}}},
			connsettings.Traces:  {},
			connsettings.Logs:    {Endpoint: "https://logs.example", TLS: &connsettings.TLS{}},
		},
		Others: map[string]connsettings.Connection{
			"backend": {Endpoint: "https://backend.example", Other: map[string]string{"tenant": "t"}},
			"none":    {},
		},
	}
	return sent, want
}

// TestOfferOfConnectionSettings comes in one piece, and its status goes back with
// its hash: APPLYING at once, then what the agent says, and that again when the
// server asks for everything.
//
// Conformance: 85, 86, 124
func TestOfferOfConnectionSettings(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		sent, want := fullOffer()
		server.reply(&protobufs.ServerToAgent{ConnectionSettings: sent})
		set, events := settings(t, transport, server.url(transport))
		set.Capabilities = allSettings(set.Capabilities)
		s := start(t, set)
		assert.Equal(t, want, events.nextSettings(t))
		hash, status := server.settingsStatus(t)
		assert.Equal(t, "\x00\xff applying", hash+" "+status)
		require.NoError(t, s.SetSettingsStatus(session.SettingsStatus{Hash: want.Hash, State: session.Failed, Message: "opamp: no\xff"}))
		hash, status = server.settingsStatus(t)
		assert.Equal(t, "\x00\xff failed: opamp: no�", hash+" "+status)

		server.reply(&protobufs.ServerToAgent{Flags: uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)})
		require.NoError(t, s.SetHealth(health.Node{Status: "x"}))
		full := server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetAgentDescription() != nil })
		assert.Equal(t, "opamp: no�", full.GetConnectionSettingsStatus().GetErrorMessage())
		assert.Empty(t, events.settings, "it came twice")
	})
}

// stallingLogger holds the client up where it logs that it refuses an interval of 0,
// which over HTTP is between a message and the part for the OpAMP connection.
type stallingLogger struct{ stall func() }

func (stallingLogger) Debugf(string, ...any) {}

func (l stallingLogger) Errorf(format string, _ ...any) {
	if strings.HasPrefix(format, "Failed to set heartbeat interval") {
		l.stall()
	}
}

// TestOfferIsToldWholeHoweverLongItTakes the client to get through the message.
func TestOfferIsToldWholeHoweverLongItTakes(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		sent, want := fullOffer()
		sent.Opamp.HeartbeatIntervalSeconds, want.OpAMP.Heartbeat = 0, 0
		server.reply(&protobufs.ServerToAgent{
			RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("c")}, ConnectionSettings: sent,
		})
		set, events := settings(t, transport, server.url(transport))
		set.Capabilities = allSettings(set.Capabilities)
		stalled := make(chan struct{}, 1000)
		stall := func() {
			stalled <- struct{}{}
			select {
			case o := <-events.settings:
				assert.Fail(t, "it is told while the client is inside the message", "%+v", o)
			case <-time.After(3 * session.SettleAfter):
			}
		}
		set.Callback.Offered = func(remoteconfig.Offer) { stall() }
		set.Log = stallingLogger{stall}
		start(t, set)
		assert.Equal(t, want, events.nextSettings(t))
		if transport == session.HTTP {
			assert.GreaterOrEqual(t, len(stalled), 2, "once in the message, once behind it") // the server may have answered once more
		}
	})
}

// TestPartsOfAnOfferWithoutACapability are left out, but what is left is told, and
// if it is nothing: the server waits for a status.
//
// Conformance: 49, 70
func TestPartsOfAnOfferWithoutACapability(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for name, tt := range map[string]struct {
			on   session.Capabilities
			keep func(sent *protobufs.ConnectionSettingsOffers)
			want func(all connsettings.Offer) connsettings.Offer
		}{
			"one of several": {
				session.Capabilities{OwnMetrics: true},
				func(*protobufs.ConnectionSettingsOffers) {},
				func(all connsettings.Offer) connsettings.Offer {
					return connsettings.Offer{Hash: all.Hash, Own: map[connsettings.Signal]connsettings.Connection{connsettings.Metrics: all.Own[connsettings.Metrics]}}
				},
			},
			"none": {
				session.Capabilities{OtherSettings: true, Heartbeat: true},
				func(sent *protobufs.ConnectionSettingsOffers) { sent.OtherConnections = nil },
				func(all connsettings.Offer) connsettings.Offer { return connsettings.Offer{Hash: all.Hash} },
			},
			"only the OpAMP connection": {
				session.Capabilities{OpAMPSettings: true},
				func(*protobufs.ConnectionSettingsOffers) {},
				func(all connsettings.Offer) connsettings.Offer {
					return connsettings.Offer{Hash: all.Hash, OpAMP: all.OpAMP}
				},
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil)
				sent, all := fullOffer()
				tt.keep(sent)
				server.reply(&protobufs.ServerToAgent{ConnectionSettings: sent})
				set, events := settings(t, transport, server.url(transport))
				set.Capabilities = tt.on
				set.Initial.EffectiveConfig = nil
				start(t, set)
				assert.Equal(t, tt.want(all), events.nextSettings(t))
			})
		}
	})
}

// TestHeartbeatOfAnOffer is bounded by what a duration holds.
func TestHeartbeatOfAnOffer(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	server.reply(&protobufs.ServerToAgent{ConnectionSettings: &protobufs.ConnectionSettingsOffers{
		Hash: []byte("h"), Opamp: &protobufs.OpAMPConnectionSettings{HeartbeatIntervalSeconds: 1 << 63},
	}})
	set, events := settings(t, session.WebSocket, server.url(session.WebSocket))
	set.Capabilities.OpAMPSettings = true
	start(t, set)
	assert.Greater(t, events.nextSettings(t).OpAMP.Heartbeat, 200*365*24*time.Hour)
}

// TestOfferWithoutAHash is not worked on, since its status could not be told; the
// status before is stated again in place of the client's own APPLYING.
//
// Conformance: 85
func TestOfferWithoutAHash(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for name, cut := range map[string]func(*protobufs.ConnectionSettingsOffers){
			"OpAMP": func(o *protobufs.ConnectionSettingsOffers) { o.OwnLogs = nil },
			"own":   func(o *protobufs.ConnectionSettingsOffers) { o.Opamp = nil },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil)
				offer := &protobufs.ConnectionSettingsOffers{
					Opamp:   &protobufs.OpAMPConnectionSettings{DestinationEndpoint: "wss://x"},
					OwnLogs: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://x"},
				}
				cut(offer)
				server.reply(&protobufs.ServerToAgent{ConnectionSettings: offer})
				set, events := settings(t, transport, server.url(transport))
				set.Capabilities = allSettings(set.Capabilities)
				set.Initial.Settings = session.SettingsStatus{Hash: []byte("before"), State: session.Applied}
				told := make(chan string, 1000)
				set.Callback.ServerError = func(kind, message string) { told <- kind + ": " + message }
				s := start(t, set)
				hash, status := server.settingsStatus(t)
				assert.Equal(t, "before applied", hash+" "+status, "in the first message")
				select {
				case text := <-told:
					assert.Contains(t, text, "ConnectionSettings: an offer of connection settings without a hash is ignored")
				case <-time.After(waitTime):
					t.Fatal("it is not told")
				}
				hash, status = server.settingsStatus(t)
				assert.Equal(t, "before applied", hash+" "+status)
				for i := range 3 { // each answered with the same offer
					require.NoError(t, s.SetHealth(health.Node{Status: strconv.Itoa(i)}))
					server.until(t, func(m *protobufs.AgentToServer) bool { return m.GetHealth() != nil })
				}
				server.reply(&protobufs.ServerToAgent{})
				assert.Empty(t, told, "it is told again")
				assert.Empty(t, events.settings)
			})
		}
	})
}

// TestSettingsStatusOfAFormerSession is stated at once. The same offer is told
// again, and whatever the agent then says reaches the server, in any order; what
// is the same is not sent again.
//
// Conformance: 86, 91
func TestSettingsStatusOfAFormerSession(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for _, former := range []session.RemoteConfigState{session.Failed, session.Applied} {
			t.Run(string(former), func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil)
				server.reply(&protobufs.ServerToAgent{ConnectionSettings: &protobufs.ConnectionSettingsOffers{
					Hash: []byte("h"), OwnLogs: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://x"},
				}})
				set, events := settings(t, transport, server.url(transport))
				set.Capabilities.OwnLogs = true
				set.Initial.Settings = session.SettingsStatus{Hash: []byte("h"), State: former, Open: true}
				s := start(t, set)
				status := func() string {
					hash, status := server.settingsStatus(t)
					return hash + " " + status
				}
				assert.Equal(t, "h "+string(former), status())
				assert.Equal(t, "h", string(events.nextSettings(t).Hash))
				assert.Equal(t, "h applying", status())
				for _, state := range []session.RemoteConfigState{
					session.Failed, session.Applied, session.Applying, session.Failed, session.Applying, session.Applied, session.Failed,
				} {
					require.NoError(t, s.SetSettingsStatus(session.SettingsStatus{Hash: []byte("h"), State: state}))
					assert.Equal(t, "h "+string(state), status())
				}
				require.NoError(t, s.SetSettingsStatus(session.SettingsStatus{Hash: []byte("h"), State: session.Failed}))
				require.NoError(t, s.SetSettingsStatus(session.SettingsStatus{}))
				require.NoError(t, s.SetHealth(health.Node{Status: "x"}))
				m := server.until(t, func(m *protobufs.AgentToServer) bool {
					return m.GetConnectionSettingsStatus() != nil || m.GetHealth() != nil
				})
				assert.Nil(t, m.GetConnectionSettingsStatus())
			})
		}
	})
}

// TestOfferInForceIsKnown: a server that offers the same in each first answer does
// not make the agent tell that it is being applied.
func TestOfferInForceIsKnown(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		for _, hash := range []string{"h", "next"} {
			server.reply(&protobufs.ServerToAgent{ConnectionSettings: &protobufs.ConnectionSettingsOffers{
				Hash: []byte(hash), OwnLogs: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://x"},
			}})
		}
		set, events := settings(t, transport, server.url(transport))
		set.Capabilities.OwnLogs = true
		set.Initial.Settings = session.SettingsStatus{Hash: []byte("h"), State: session.Applied}
		s := start(t, set)
		hash, status := server.settingsStatus(t)
		assert.Equal(t, "h applied", hash+" "+status)
		require.NoError(t, s.SetHealth(health.Node{Status: "x"})) // over HTTP, fetches the second answer
		assert.Equal(t, "next", string(events.nextSettings(t).Hash))
		hash, status = server.settingsStatus(t)
		assert.Equal(t, "next applying", hash+" "+status)
	})
}

// TestStatusSurvivesAReconnect: a server that asks after a connection broke is
// told it.
func TestStatusSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	set.Capabilities.OwnLogs = true
	s := start(t, set)
	server.next(t)
	require.NoError(t, s.SetSettingsStatus(session.SettingsStatus{Hash: []byte("h"), State: session.Applied}))
	server.settingsStatus(t)
	server.reply(&protobufs.ServerToAgent{Flags: uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)})
	server.mu.Lock()
	for c := range server.conns {
		require.NoError(t, c.Disconnect())
	}
	server.mu.Unlock()
	hash, status := server.settingsStatus(t)
	assert.Equal(t, "h applied", hash+" "+status)
}

func TestSettingsStatusThatCannotBeSent(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	s := start(t, set)
	err := s.SetSettingsStatus(session.SettingsStatus{Hash: []byte("h"), State: session.Applied})
	require.ErrorContains(t, err, "reporting the status of connection settings: ")
	require.ErrorContains(t, s.RequestCertificate(nil), "the request is empty")
}

// TestAnswered: an answer that says that the agent's message was no good is none.
func TestAnswered(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	server.reply(&protobufs.ServerToAgent{ErrorResponse: &protobufs.ServerErrorResponse{ErrorMessage: "no"}})
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	set.Capabilities.Restart = true
	told := make(chan string, 100)
	set.Callback.ServerError = func(string, string) { told <- "error" }
	set.Callback.Offered = func(remoteconfig.Offer) { told <- "offered" }
	set.Callback.Answered = func() { told <- "answered" }
	set.Callback.Restart = func() { told <- "restart" }
	s := start(t, set)
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			require.Equal(t, want, got)
		case <-time.After(waitTime):
			t.Fatal("not told: " + want)
		}
	}
	expect("error")
	server.reply(&protobufs.ServerToAgent{RemoteConfig: &protobufs.AgentRemoteConfig{ConfigHash: []byte("c")}})
	require.NoError(t, s.SetHealth(health.Node{Status: "1"}))
	expect("offered") // and nothing before it
	expect("answered")
	server.reply(&protobufs.ServerToAgent{Command: &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart}})
	require.NoError(t, s.SetHealth(health.Node{Status: "2"}))
	expect("restart")
	expect("answered")
}

// TestEveryAnswerIsTold, also over HTTP and in quick succession.
func TestEveryAnswerIsTold(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		set, _ := settings(t, transport, server.url(transport))
		set.PollingInterval = time.Hour
		answers := make(chan struct{}, 100)
		set.Callback.Answered = func() { answers <- struct{}{} }
		s := start(t, set)
		server.next(t)
		for i := range 5 {
			require.NoError(t, s.SetHealth(health.Node{Status: strconv.Itoa(i)}))
			server.next(t)
		}
		for range 6 {
			select {
			case <-answers:
			case <-time.After(waitTime):
				t.Fatal("an answer is not told")
			}
		}
	})
}

// TestCertificateRequest is sent once each time the agent asks.
func TestCertificateRequest(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		set, _ := settings(t, transport, server.url(transport))
		s := start(t, set)
		csr := func(m *protobufs.AgentToServer) string {
			return string(m.GetConnectionSettingsRequest().GetOpamp().GetCertificateRequest().GetCsr())
		}
		assert.Empty(t, csr(server.next(t)))
		for _, want := range []string{"csr 1", "csr 2"} {
			require.NoError(t, s.RequestCertificate([]byte(want)))
			server.until(t, func(m *protobufs.AgentToServer) bool { return csr(m) == want })
			assert.Empty(t, csr(server.nextAfter(t, s)), "it is sent once")
		}
	})
}

// nextAfter makes the agent say something and returns it.
func (s *opampServer) nextAfter(t *testing.T, of *session.Session) *protobufs.AgentToServer {
	t.Helper()
	require.NoError(t, of.SetHealth(health.Node{Status: "said"}))
	return s.until(t, func(m *protobufs.AgentToServer) bool { return m.GetHealth() != nil })
}
