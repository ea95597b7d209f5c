package opampextension

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	clienttypes "github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampcustommessages"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadatatest"
)

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(waitTime):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// customServer is an OpAMP server that answers the announcement of a capability
// with as many messages of it as the test wants.
type customServer struct {
	url      string
	messages chan *protobufs.CustomMessage
}

func startCustomServer(t *testing.T, capability string, n int) customServer {
	t.Helper()
	s := customServer{messages: make(chan *protobufs.CustomMessage, 100)}
	conns := make(chan types.Connection, 10)
	handler, connContext, err := server.New(nil).Attach(server.Settings{Callbacks: types.Callbacks{
		OnConnecting: func(*http.Request) types.ConnectionResponse {
			return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
				OnConnected: func(_ context.Context, c types.Connection) { conns <- c },
				OnMessage: func(ctx context.Context, c types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
					if custom := m.GetCustomMessage(); custom != nil {
						s.messages <- custom
					}
					if slices.Contains(m.GetCustomCapabilities().GetCapabilities(), capability) {
						for i := range n {
							assert.NoError(t, c.Send(ctx, &protobufs.ServerToAgent{
								CustomMessage: &protobufs.CustomMessage{Capability: capability, Type: "in", Data: fmt.Append(nil, i)},
							}))
						}
					}
					return &protobufs.ServerToAgent{InstanceUid: m.GetInstanceUid()}
				},
			}}
		},
	}})
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	web.Config.ConnContext = connContext
	web.Start()
	t.Cleanup(func() {
		close(conns)
		for c := range conns {
			_ = c.Disconnect()
		}
		web.Close()
	})
	s.url = "ws" + strings.TrimPrefix(web.URL, "http")
	return s
}

// newTestExtension returns an extension that talks to a server.
func newTestExtension(t *testing.T, telemetry *componenttest.Telemetry, url string) *opampExtension {
	t.Helper()
	cfg, ok := createDefaultConfig().(*Config)
	require.True(t, ok)
	cfg.Server.WS = &ConnectionConfig{Endpoint: url}
	set := metadatatest.NewSettings(telemetry)
	set.ID = component.NewIDWithName(component.MustNewType("opamp"), t.Name())
	return newExtension(set, cfg)
}

// The extension is a registry of the API that contrib's components know.
//
// Conformance: E3
func TestCustomMessages(t *testing.T) {
	t.Parallel()
	const capability = "com.example.test"
	s := startCustomServer(t, capability, 15)
	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { assert.NoError(t, telemetry.Shutdown(context.Background())) })
	e := newTestExtension(t, telemetry, s.url)
	var registry opampcustommessages.CustomCapabilityRegistry = e
	_, err := registry.Register(capability)
	require.ErrorIs(t, err, errNotRunning)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))

	h, err := registry.Register(capability)
	require.NoError(t, err)
	require.NoError(t, e.Ready())
	want := func(received int64) []metricdata.DataPoint[int64] {
		return []metricdata.DataPoint[int64]{
			{Value: 0, Attributes: attribute.NewSet(attribute.String("direction", "sent"))},
			{Value: received, Attributes: attribute.NewSet(attribute.String("direction", "received"))},
		}
	}
	lease := e.lease.Load()
	require.Eventually(t, func() bool { return lease.Metrics().CustomMessagesDropped.Received.Load() == 5 }, waitTime, time.Millisecond,
		"ten is the default size of a queue")
	metadatatest.AssertEqualOpampCustomMessagesDropped(t, telemetry, want(5), metricdatatest.IgnoreTimestamp())
	for i := range 10 {
		m := receive(t, h.Message())
		assert.Equal(t, fmt.Sprint(capability, " in ", i), m.GetCapability()+" "+m.GetType()+" "+string(m.GetData()))
	}

	sent, err := h.SendMessage("out", []byte("x"))
	require.NoError(t, err)
	receive(t, sent)
	m := receive(t, s.messages)
	assert.Equal(t, capability+" out x", m.GetCapability()+" "+m.GetType()+" "+string(m.GetData()))

	h.Unregister()
	h.Unregister()
	_, err = h.SendMessage("out", nil)
	require.ErrorContains(t, err, "has already been unregistered")
	select {
	case m, open := <-h.Message():
		assert.Failf(t, "the channel must stay open and empty", "%v %t", m, open)
	default:
	}
	require.NoError(t, e.Shutdown(t.Context()))
	_, err = registry.Register(capability)
	require.ErrorIs(t, err, errNotRunning)
}

// A full queue is told of as contrib's extension does, whose components wait for
// the channel and try again.
func TestCustomMessagePending(t *testing.T) {
	t.Parallel()
	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { assert.NoError(t, telemetry.Shutdown(context.Background())) })
	e := newTestExtension(t, telemetry, "ws://127.0.0.1:1/v1/opamp") // nobody is there
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	h, err := e.Register("a")
	require.NoError(t, err)
	accepted := 0
	var room chan struct{}
	for err == nil {
		if room, err = h.SendMessage("out", nil); err == nil {
			accepted++
		}
	}
	assert.Equal(t, 1000, accepted)
	assert.True(t, err == clienttypes.ErrCustomMessagePending, "some compare like this: %v", err) //nolint:errorlint,testifylint // that is the point
	select {
	case <-room:
		assert.Fail(t, "there is no room")
	default:
	}
	require.NoError(t, e.Shutdown(t.Context())) // unregisters for the component
	receive(t, room)
	_, err = h.SendMessage("out", nil)
	require.ErrorContains(t, err, "has already been unregistered")
	h.Unregister()
}
