package opampextension

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/pipeline"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// waitTime bounds every wait; only a failing test reaches it.
const waitTime = 20 * time.Second

// serve starts an OpAMP server over HTTP and returns its URL and what it
// receives.
func serve(t *testing.T) (url string, received <-chan *protobufs.AgentToServer) {
	t.Helper()
	messages := make(chan *protobufs.AgentToServer, 1000)
	handler, connContext, err := server.New(nil).Attach(server.Settings{Callbacks: types.Callbacks{
		OnConnecting: func(*http.Request) types.ConnectionResponse {
			return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
				OnMessage: func(_ context.Context, _ types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
					messages <- m
					return &protobufs.ServerToAgent{InstanceUid: m.GetInstanceUid()}
				},
			}}
		},
	}})
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	web.Config.ConnContext = connContext
	web.Start()
	t.Cleanup(web.Close)
	return web.URL, messages
}

func next(t *testing.T, received <-chan *protobufs.AgentToServer) *protobufs.AgentToServer {
	t.Helper()
	select {
	case m := <-received:
		return m
	case <-time.After(waitTime):
		t.Fatal("no message arrived")
		return nil
	}
}

// newTest returns the extension as the Collector makes it, named after the test:
// agents are told apart by name.
func newTest(t *testing.T, cfg *Config) extension.Extension {
	t.Helper()
	set := extensiontest.NewNopSettings(metadata.Type)
	set.ID = component.NewIDWithName(metadata.Type, strings.ReplaceAll(t.Name(), "/", "_"))
	set.BuildInfo = component.BuildInfo{Command: "otelcol-test", Version: "1.2.3"}
	e, err := NewFactory().Create(t.Context(), set, cfg)
	require.NoError(t, err)
	return e
}

func overHTTP(endpoint string) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Server.HTTP = &HTTPConfig{Endpoint: endpoint, PollingInterval: 10 * time.Millisecond}
	return cfg
}

// withoutFolder makes the test independent of the machine's state folder.
func withoutFolder(t *testing.T) {
	t.Helper()
	t.Setenv("OTELCOL_OPAMP_STATE_DIR", filepath.Join(t.TempDir(), "absent"))
}

// within fails if f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(waitTime):
		t.Fatalf("%s blocks", what)
	}
}

// TestStartsWithoutReportsHealth: with reports_health off nobody waits for status
// events, and yet the host, which sends them under a lock, is not held up.
//
// Conformance: E1
func TestStartsWithoutReportsHealth(t *testing.T) {
	withoutFolder(t)
	url, received := serve(t)
	cfg := overHTTP(url)
	cfg.Capabilities.ReportsHealth = false
	e := newTest(t, cfg)
	receiver := componentstatus.NewInstanceID(component.MustNewID("otlp"), component.KindReceiver, pipeline.NewID(pipeline.SignalTraces))
	events := func() {
		for range 100 { // more than any queue would be given
			e.(componentstatus.Watcher).ComponentStatusChanged(receiver, componentstatus.NewEvent(componentstatus.StatusStarting))
			e.(componentstatus.Watcher).ComponentStatusChanged(receiver, componentstatus.NewRecoverableErrorEvent(errors.New("busy")))
			e.(componentstatus.Watcher).ComponentStatusChanged(receiver, componentstatus.NewEvent(componentstatus.StatusOK))
		}
	}
	within(t, "a status event before Start", events)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	within(t, "a status event", events)
	require.NoError(t, e.(*opampExtension).Ready())
	within(t, "a status event after Ready", events)
	for range 3 {
		m := next(t, received)
		assert.Nil(t, m.GetHealth())
		assert.Zero(t, m.GetCapabilities()&uint64(protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth))
	}
	require.NoError(t, e.(*opampExtension).NotReady())
	require.NoError(t, e.Shutdown(t.Context()))
	within(t, "a status event after Shutdown", events)
}

// TestNothingRunsBeforeStart: an extension that is created and never started, as
// when another component cannot be created, leaves no goroutine behind.
//
// Conformance: E12
func TestNothingRunsBeforeStart(t *testing.T) {
	before := goleak.IgnoreCurrent()
	newTest(t, overHTTP("http://127.0.0.1:1/v1/opamp"))
	require.NoError(t, goleak.Find(before))
}

// TestInstanceUIDSurvivesReload: without a folder and without `instance_uid` the
// next instance, which a reload makes, is the same agent.
//
// Conformance: E8, 37, 38
func TestInstanceUIDSurvivesReload(t *testing.T) {
	withoutFolder(t)
	url, received := serve(t)
	var uids [][]byte
	for range 2 {
		e := newTest(t, overHTTP(url))
		require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
		m := next(t, received)
		uids = append(uids, m.GetInstanceUid())
		assert.Equal(t, uuid.UUID(m.GetInstanceUid()).String(), attributes(m.GetAgentDescription().GetIdentifyingAttributes())["service.instance.id"].GetStringValue())
		require.NoError(t, e.Shutdown(t.Context()))
		for len(received) > 0 {
			<-received
		}
	}
	assert.Equal(t, uids[0], uids[1])
	assert.Equal(t, uuid.Version(7), uuid.UUID(uids[0]).Version())
}

// TestInstanceUIDIsTheConfiguredOne, also if the Collector's resource has a
// service.instance.id that is no UUID.
//
// Conformance: E8, 37
func TestInstanceUIDIsTheConfiguredOne(t *testing.T) {
	withoutFolder(t)
	for name, text := range map[string]string{
		"UUID": "0192e5b0-8a4c-7c3e-9a51-2f6d3b1e4c7a",
		"ULID": "01BX5ZZKBKACTAV9WEVGEMMVRZ",
	} {
		t.Run(name, func(t *testing.T) {
			url, received := serve(t)
			cfg := overHTTP(url)
			cfg.InstanceUID = text
			e := newTest(t, cfg)
			e.(*opampExtension).set.Resource.Attributes().PutStr("service.instance.id", "collector one")
			require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
			m := next(t, received)
			want, err := parseInstanceUID(text)
			require.NoError(t, err)
			assert.Equal(t, want[:], m.GetInstanceUid())
			assert.Equal(t, want.String(), attributes(m.GetAgentDescription().GetIdentifyingAttributes())["service.instance.id"].GetStringValue())
			require.NoError(t, e.Shutdown(t.Context()))
		})
	}
}

// TestDescriptionHasResourceAttributesOfEveryType: values that are no strings are
// reported as what they are.
//
// Conformance: E9, 42, 44, 45
func TestDescriptionHasResourceAttributesOfEveryType(t *testing.T) {
	withoutFolder(t)
	url, received := serve(t)
	cfg := overHTTP(url)
	cfg.AgentDescription = DescriptionConfig{
		IncludeResourceAttributes: true,
		NonIdentifyingAttributes:  map[string]string{"host.name": "edge-1", "env": "prod"},
	}
	e := newTest(t, cfg)
	resource := e.(*opampExtension).set.Resource.Attributes()
	resource.PutStr("service.name", "gateway")
	resource.PutStr("service.namespace", "payments")
	resource.PutStr("service.version", "9")
	resource.PutInt("shard", 5)
	resource.PutBool("canary", true)
	resource.PutDouble("weight", 0.5)
	resource.PutEmptySlice("zones").AppendEmpty().SetStr("a")
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	description := next(t, received).GetAgentDescription()
	require.NoError(t, e.Shutdown(t.Context()))

	identifying := attributes(description.GetIdentifyingAttributes())
	assert.Equal(t, "gateway", identifying["service.name"].GetStringValue())
	assert.Equal(t, "payments", identifying["service.namespace"].GetStringValue())
	assert.Equal(t, "9", identifying["service.version"].GetStringValue())
	others := attributes(description.GetNonIdentifyingAttributes())
	assert.Equal(t, int64(5), others["shard"].GetIntValue())
	assert.True(t, others["canary"].GetBoolValue())
	assert.InDelta(t, 0.5, others["weight"].GetDoubleValue(), 0)
	require.Len(t, others["zones"].GetArrayValue().GetValues(), 1)
	assert.Equal(t, "a", others["zones"].GetArrayValue().GetValues()[0].GetStringValue())
	assert.Equal(t, "edge-1", others["host.name"].GetStringValue())
	assert.Equal(t, "prod", others["env"].GetStringValue())
	assert.Contains(t, others, "os.type")
	assert.Contains(t, others, "host.arch")
	assert.NotContains(t, others, "service.name")
}

func attributes(list []*protobufs.KeyValue) map[string]*protobufs.AnyValue {
	out := map[string]*protobufs.AnyValue{}
	for _, kv := range list {
		out[kv.GetKey()] = kv.GetValue()
	}
	return out
}

// authHost is a host with one extension.
type authHost struct {
	component.Host
	ext component.Component
}

func (h authHost) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{component.MustNewID("auth"): h.ext}
}

// authExtension authenticates as the function does.
type authExtension struct {
	component.StartFunc
	component.ShutdownFunc
	roundTrip func(next http.RoundTripper, r *http.Request) (*http.Response, error)
}

var _ extensionauth.HTTPClient = authExtension{}

func (a authExtension) RoundTripper(base http.RoundTripper) (http.RoundTripper, error) {
	return roundTripper(func(r *http.Request) (*http.Response, error) { return a.roundTrip(base, r) }), nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestAuthorizationSeesTheRequestThatIsMade: an extension that signs requests
// needs the method and the URL.
//
// Conformance: E4
func TestAuthorizationSeesTheRequestThatIsMade(t *testing.T) {
	t.Parallel()
	ask, err := authorization(component.MustNewID("auth"), authHost{ext: authExtension{
		roundTrip: func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "signed "+r.Method+" "+r.URL.String())
			return next.RoundTrip(r)
		},
	}})
	require.NoError(t, err)
	header, err := ask(session.Request{Method: http.MethodPost, URL: "https://opamp.example.com/v1/opamp", Timeout: waitTime})
	require.NoError(t, err)
	assert.Equal(t, "signed POST https://opamp.example.com/v1/opamp", header.Get("Authorization"))
}

// TestTokenEndpointThatHangsIsGivenUp: an extension that asks somebody who never
// answers does not hold up the connection for ever, and nothing goes out without
// credentials.
//
// Conformance: E4
func TestTokenEndpointThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	ask, err := authorization(component.MustNewID("auth"), authHost{ext: authExtension{
		roundTrip: func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
	}})
	require.NoError(t, err)
	var header http.Header
	within(t, "the authorization", func() {
		header, err = ask(session.Request{Method: http.MethodGet, URL: "wss://x/v1/opamp", Timeout: 10 * time.Millisecond})
	})
	assert.Nil(t, header)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, `asking extension "auth"`)
}

// TestExtensionThatDoesNotAuthorize: whatever it does instead, the result is an
// error and no headers.
//
// Conformance: E4
func TestExtensionThatDoesNotAuthorize(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ext  component.Component
		want string
	}{
		"fails": {
			authExtension{roundTrip: func(http.RoundTripper, *http.Request) (*http.Response, error) {
				return nil, errors.New("no token")
			}}, `asking extension "auth": no token`,
		},
		"answers itself": {
			authExtension{roundTrip: func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusForbidden, Body: http.NoBody, Request: r}, nil
			}}, `extension "auth" let no request through`,
		},
		"authenticates no clients": {struct {
			component.StartFunc
			component.ShutdownFunc
		}{}, `auth extension "auth" is not an extensionauth.HTTPClient`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask, err := authorization(component.MustNewID("auth"), authHost{ext: tt.ext})
			if err == nil {
				var header http.Header
				header, err = ask(session.Request{Method: http.MethodGet, URL: "wss://x/v1/opamp", Timeout: waitTime})
				assert.Nil(t, header)
			}
			require.EqualError(t, err, tt.want)
		})
	}
	_, err := authorization(component.MustNewID("other"), authHost{})
	require.EqualError(t, err, `could not find auth extension "other"`)
}
