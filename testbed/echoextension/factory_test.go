package echoextension_test

import (
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampcustommessages"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/echoextension"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opamp is an OpAMP extension whose server is the test.
type opamp struct {
	component.StartFunc
	component.ShutdownFunc
	in           chan *protobufs.CustomMessage
	out          chan string
	unregistered bool
}

func (o *opamp) Register(string, ...opampcustommessages.CustomCapabilityRegisterOption) (opampcustommessages.CustomCapabilityHandler, error) {
	return o, nil
}

func (o *opamp) Message() <-chan *protobufs.CustomMessage { return o.in }

func (o *opamp) SendMessage(kind string, data []byte) (chan struct{}, error) {
	o.out <- kind + " " + string(data)
	return nil, nil
}

func (o *opamp) Unregister() { o.unregistered = true }

type host struct {
	extensions map[component.ID]component.Component
}

func (h host) GetExtensions() map[component.ID]component.Component { return h.extensions }

func TestEcho(t *testing.T) {
	t.Parallel()
	factory := echoextension.NewFactory()
	cfg := factory.CreateDefaultConfig()
	require.NoError(t, componenttest.CheckConfigStruct(cfg))
	e, err := factory.Create(t.Context(), extensiontest.NewNopSettings(factory.Type()), cfg)
	require.NoError(t, err)
	dependent, ok := e.(extensioncapabilities.Dependent)
	require.True(t, ok)
	require.Equal(t, []component.ID{component.MustNewID("opamp")}, dependent.Dependencies())
	require.EqualError(t, e.Start(t.Context(), host{}), `extension "opamp" takes no custom messages`)
	require.NoError(t, e.Shutdown(t.Context()))

	o := &opamp{in: make(chan *protobufs.CustomMessage), out: make(chan string, 1)}
	require.NoError(t, e.Start(t.Context(), host{map[component.ID]component.Component{component.MustNewID("opamp"): o}}))
	o.in <- &protobufs.CustomMessage{Data: []byte("x")}
	require.Equal(t, "echo x", <-o.out)
	require.NoError(t, e.Shutdown(t.Context()))
	require.True(t, o.unregistered)
}
