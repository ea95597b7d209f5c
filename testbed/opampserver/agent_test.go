package opampserver_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// pollInterval is how often an HTTP agent polls: the tests wait for several.
const pollInterval = 20 * time.Millisecond

// testAgent is a real client that takes in what the server sends.
type testAgent struct {
	client client.OpAMPClient
	uid    string

	mu sync.Mutex
	// mu guards everything below.
	offers [][]byte
	custom []*protobufs.CustomMessage
}

// agentOptions change the agent from the usual one.
type agentOptions struct {
	uid          uuid.UUID
	capabilities protobufs.AgentCapabilities // added
	without      protobufs.AgentCapabilities // removed
	header       http.Header
	tls          *tls.Config
	lazy         bool // does not report what it received
}

type testTransport struct {
	name opampserver.Transport
	url  func(*opampserver.Server) string
	make func() client.OpAMPClient
}

// transports is the table of every test that holds for both.
func transports() []testTransport {
	return []testTransport{
		{opampserver.WebSocket, (*opampserver.Server).WSURL, func() client.OpAMPClient { return client.NewWebSocket(nil) }},
		{opampserver.HTTP, (*opampserver.Server).HTTPURL, func() client.OpAMPClient { return client.NewHTTP(nil) }},
	}
}

// onBoth runs a test once for each transport.
func onBoth(t *testing.T, test func(t *testing.T, tr testTransport)) {
	t.Helper()
	for _, tr := range transports() {
		t.Run(string(tr.name), func(t *testing.T) {
			t.Parallel()
			test(t, tr)
		})
	}
}

func startServer(t *testing.T, settings opampserver.Settings) *opampserver.Server {
	t.Helper()
	s, err := opampserver.Start(settings)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
	})
	return s
}

func startAgent(t *testing.T, tr testTransport, s *opampserver.Server, o agentOptions) *testAgent {
	t.Helper()
	if o.uid == uuid.Nil {
		o.uid = uuid.Must(uuid.NewV7())
	}
	a := &testAgent{client: tr.make(), uid: o.uid.String()}
	capabilities := protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth | o.capabilities
	capabilities &^= o.without
	require.NoError(t, a.client.SetAgentDescription(&protobufs.AgentDescription{
		IdentifyingAttributes:    []*protobufs.KeyValue{textAttribute("service.name", "test")},
		NonIdentifyingAttributes: []*protobufs.KeyValue{textAttribute("os.type", "none")},
	}))
	require.NoError(t, a.client.SetCapabilities(&capabilities))
	require.NoError(t, a.client.SetHealth(&protobufs.ComponentHealth{Healthy: true, Status: "StatusOK"}))
	require.NoError(t, a.client.SetCustomCapabilities(&protobufs.CustomCapabilities{Capabilities: []string{"test.custom"}}))
	if capabilities&protobufs.AgentCapabilities_AgentCapabilities_ReportsAvailableComponents != 0 {
		require.NoError(t, a.client.SetAvailableComponents(&protobufs.AvailableComponents{
			Hash:       []byte("components"),
			Components: map[string]*protobufs.ComponentDetails{"receivers": {}},
		}))
	}
	httpClient := &http.Client{Transport: &http.Transport{TLSClientConfig: o.tls}, Timeout: patience}
	settings := types.StartSettings{
		Client:            httpClient,
		OpAMPServerURL:    tr.url(s),
		Header:            o.header,
		TLSConfig:         o.tls,
		InstanceUid:       types.InstanceUid(o.uid),
		HeartbeatInterval: new(pollInterval),
		BackoffPolicy:     func() types.BackoffPolicy { return impatience{} },
		Callbacks: types.Callbacks{
			GetEffectiveConfig: func(context.Context) (*protobufs.EffectiveConfig, error) {
				return &protobufs.EffectiveConfig{ConfigMap: &protobufs.AgentConfigMap{
					ConfigMap: map[string]*protobufs.AgentConfigObject{"": {Body: []byte("running: true")}},
				}}, nil
			},
			OnMessage: func(_ context.Context, msg *types.MessageData) { a.receive(msg, o.lazy) },
		},
	}
	require.NoError(t, a.client.Start(t.Context(), settings))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, a.client.Stop(ctx))
		httpClient.CloseIdleConnections()
	})
	return a
}

// receive records an offer and reports it as applied.
func (a *testAgent) receive(msg *types.MessageData, lazy bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if msg.CustomMessage != nil {
		a.custom = append(a.custom, msg.CustomMessage)
	}
	if msg.RemoteConfig == nil {
		return
	}
	a.offers = append(a.offers, msg.RemoteConfig.GetConfigHash())
	if lazy {
		return
	}
	_ = a.client.SetRemoteConfigStatus(&protobufs.RemoteConfigStatus{ // fails only without a hash
		LastRemoteConfigHash: msg.RemoteConfig.GetConfigHash(),
		Status:               protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED,
	})
}

func (a *testAgent) received() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([][]byte(nil), a.offers...)
}

func (a *testAgent) customMessages() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.custom)
}

// impatience retries at once: a refused connection costs nothing on loopback.
type impatience struct{}

func (impatience) NextBackOff() time.Duration { return 5 * time.Millisecond }

func textAttribute(key, value string) *protobufs.KeyValue {
	return &protobufs.KeyValue{Key: key, Value: &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: value}}}
}

// patiently is a context that ends with the patience of the tests.
func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
