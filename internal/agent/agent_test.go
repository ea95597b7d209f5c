package agent_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	"go.opentelemetry.io/collector/pipeline"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitTime bounds every wait; only a failing test reaches it.
const waitTime = 30 * time.Second

// opampServer records what agents say and answers with an offer, if one is set
// and the agent has not reported its hash.
type opampServer struct {
	url string

	mu          sync.Mutex // guards everything below
	offer       *protobufs.AgentRemoteConfig
	failure     *protobufs.ServerErrorResponse
	conns       map[types.Connection]bool
	connections int
	statuses    []*protobufs.RemoteConfigStatus
	effective   string
	health      *protobufs.ComponentHealth
	uids        map[string]bool
	caps        uint64
	comings     []string // "hello" for each connection, "goodbye" for each AgentDisconnect
	changed     chan struct{}
	// custom are the custom messages that arrived, customCapabilities what was
	// announced, one after the other.
	custom             []string
	customCapabilities [][]string
	// settings are the statuses of connection settings, requests the certificate
	// requests, and headers those of the connections.
	settings []*protobufs.ConnectionSettingsStatus
	requests [][]byte
	headers  []http.Header
	// clients are the certificates of the connections with TLS.
	clients [][]*x509.Certificate
	// sign answers a certificate request; nil if nobody does. settingsOffer is part of
	// the first answer of each connection.
	sign          func(request []byte) *protobufs.ConnectionSettingsOffers
	settingsOffer *protobufs.ConnectionSettingsOffers
	// refuse refuses connections, which refused counts.
	refuse  bool
	refused int
}

func startServer(t *testing.T) *opampServer {
	t.Helper()
	return startServerWith(t, "ws", (*httptest.Server).Start)
}

// startServerWith starts a server whose URL has the scheme.
func startServerWith(t *testing.T, scheme string, start func(*httptest.Server)) *opampServer {
	t.Helper()
	s := &opampServer{conns: map[types.Connection]bool{}, uids: map[string]bool{}, changed: make(chan struct{}, 1)}
	handler, connContext, err := server.New(nil).Attach(server.Settings{Callbacks: types.Callbacks{
		OnConnecting: func(r *http.Request) types.ConnectionResponse {
			s.mu.Lock()
			s.headers = append(s.headers, r.Header)
			if r.TLS != nil {
				s.clients = append(s.clients, r.TLS.PeerCertificates)
			}
			s.mu.Unlock()
			if s.refuses() {
				return types.ConnectionResponse{HTTPStatusCode: http.StatusBadGateway}
			}
			return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
				OnConnected:       s.connected,
				OnConnectionClose: s.closed,
				OnMessage:         s.message,
			}}
		},
	}})
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	web.Config.ConnContext = connContext
	start(web)
	_, address, _ := strings.Cut(web.URL, "://")
	s.url = scheme + "://" + address
	t.Cleanup(func() {
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Disconnect()
		}
		s.mu.Unlock()
		web.Close()
	})
	return s
}

func (s *opampServer) refuses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		s.refused++
		s.tell()
	}
	return s.refuse
}

// tell wakes wait.
func (s *opampServer) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *opampServer) connected(_ context.Context, c types.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	s.connections++
	s.comings = append(s.comings, "hello")
}

func (s *opampServer) closed(c types.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *opampServer) message(_ context.Context, _ types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uids[uuid.UUID(m.GetInstanceUid()).String()] = true
	s.caps = m.GetCapabilities()
	if m.GetAgentDisconnect() != nil {
		s.comings = append(s.comings, "goodbye")
	}
	if status := m.GetRemoteConfigStatus(); status != nil {
		s.statuses = append(s.statuses, status)
	}
	if effective := m.GetEffectiveConfig(); effective != nil {
		s.effective = string(effective.GetConfigMap().GetConfigMap()[""].GetBody())
	}
	if health := m.GetHealth(); health != nil {
		s.health = health
	}
	if status := m.GetConnectionSettingsStatus(); status != nil {
		s.settings = append(s.settings, status)
	}
	if custom := m.GetCustomCapabilities(); custom != nil {
		s.customCapabilities = append(s.customCapabilities, custom.GetCapabilities())
	}
	if custom := m.GetCustomMessage(); custom != nil {
		s.custom = append(s.custom, string(custom.GetData()))
	}
	s.tell()
	answer := &protobufs.ServerToAgent{InstanceUid: m.GetInstanceUid(), ErrorResponse: s.failure}
	if s.offer != nil && s.lastHash() != string(s.offer.GetConfigHash()) {
		answer.RemoteConfig = s.offer
	}
	if m.GetAgentDescription() != nil {
		answer.ConnectionSettings = s.settingsOffer
	}
	if request := m.GetConnectionSettingsRequest().GetOpamp().GetCertificateRequest().GetCsr(); request != nil {
		s.requests = append(s.requests, request)
		if s.sign != nil {
			answer.ConnectionSettings = s.sign(request)
		}
	}
	return answer
}

func (s *opampServer) lastHash() string {
	if len(s.statuses) == 0 {
		return ""
	}
	return string(s.statuses[len(s.statuses)-1].GetLastRemoteConfigHash())
}

func config(hash, body string) *protobufs.AgentRemoteConfig {
	return &protobufs.AgentRemoteConfig{ConfigHash: []byte(hash), Config: &protobufs.AgentConfigMap{
		ConfigMap: map[string]*protobufs.AgentConfigObject{"": {Body: []byte(body)}},
	}}
}

// set makes an offer without pushing it: the next answer has it.
func (s *opampServer) set(hash, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offer = config(hash, body)
}

// push sends an offer to all agents.
func (s *opampServer) push(t *testing.T, hash, body string) {
	t.Helper()
	s.set(hash, body)
	s.mu.Lock()
	conns := make([]types.Connection, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		require.NoError(t, c.Send(t.Context(), &protobufs.ServerToAgent{RemoteConfig: config(hash, body)}))
	}
}

// wait waits until the condition holds; it is called with the lock held.
func (s *opampServer) wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(waitTime)
	for {
		s.mu.Lock()
		ok := condition()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			s.mu.Lock()
			statuses := fmt.Sprint(s.statuses)
			s.mu.Unlock()
			t.Fatalf("waiting for %s; statuses %s", what, statuses)
		}
	}
}

func (s *opampServer) waitStatus(t *testing.T, hash string, state protobufs.RemoteConfigStatuses) *protobufs.RemoteConfigStatus {
	t.Helper()
	var last *protobufs.RemoteConfigStatus
	s.wait(t, fmt.Sprintf("%s of %q", state, hash), func() bool {
		if len(s.statuses) == 0 {
			return false
		}
		last = s.statuses[len(s.statuses)-1]
		return string(last.GetLastRemoteConfigHash()) == hash && last.GetStatus() == state
	})
	return last
}

// tick is the time between two looks at what nothing announces.
const tick = 10 * time.Millisecond

// receive returns what the host runs next.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(waitTime):
		t.Fatal("nothing was started")
		panic("unreachable")
	}
}

const (
	applied = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED
	failed  = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED
)

// host plays the Collector: one goroutine that reloads when it is told to.
type host struct {
	t        *testing.T
	name     string
	dir      string
	server   *opampServer
	provider *agent.ProviderLease
	reload   chan struct{} // one slot, as the resolver's
	stop     chan struct{}
	stopped  chan struct{}
	// started is told the body that each generation runs.
	started func(conf map[string]any, e *agent.ExtensionLease)
	// component starts a component, and returns what stops it; nil if there is
	// none. sameSession is nil for settings that never change.
	component   func(e *agent.ExtensionLease) (stop func())
	sameSession func() any
	dryRun      func(context.Context, preflight.Settings) preflight.Outcome
	log         *zap.Logger
	// change changes the settings of an instance; nil for no change.
	change func(*agent.ExtensionSettings)
}

func newHost(t *testing.T, s *opampServer, dir string) *host {
	t.Helper()
	return &host{
		t: t, name: t.Name(), dir: dir, server: s,
		reload: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		started: func(map[string]any, *agent.ExtensionLease) {},
		dryRun:  func(context.Context, preflight.Settings) preflight.Outcome { return preflight.Outcome{} },
		log:     zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	}
}

func (h *host) settings() agent.ExtensionSettings {
	rollout := agent.DefaultRollout()
	rollout.TrialPeriod = time.Millisecond
	var same any = h.server.url
	if h.sameSession != nil {
		same = h.sameSession()
	}
	set := agent.ExtensionSettings{
		ID:       "opamp",
		Requires: []string{"opamp"},
		Session: session.Settings{
			Transport:    session.WebSocket,
			Endpoint:     h.server.url,
			Capabilities: session.Capabilities{EffectiveConfig: true, Health: true},
		},
		SameSession: same,
		Describe: func(id uuid.UUID) session.Description {
			return session.Description{Identifying: map[string]any{"service.instance.id": id.String()}}
		},
		AcceptsRemoteConfig: true,
		Rollout:             rollout,
		View:                effectiveconfig.References,
		Log:                 h.log,
	}
	if h.change != nil {
		h.change(&set)
	}
	return set
}

// run is Collector.Run. It returns when the host is stopped; kill means without
// any farewell but for what goes by itself when a process dies.
func (h *host) run() error {
	defer close(h.stopped)
	ctx := context.Background()
	var err error
	h.provider, err = agent.AcquireProvider(ctx, h.name, h.dir, h.log)
	if err != nil {
		return err
	}
	h.provider.SetDryRun(h.dryRun)
	for {
		retrieved, err := h.provider.Retrieve(ctx, false, func() { h.reload <- struct{}{} })
		if err != nil {
			return err
		}
		conf, done := retrieved.Conf, retrieved.Done
		e, err := agent.AcquireExtension(ctx, h.name, h.settings())
		if err != nil {
			return err
		}
		e.NotifyConfig(effectiveconfig.Snapshot{Effective: conf, Unexpanded: conf})
		stopComponent := func() {}
		if h.component != nil {
			stopComponent = h.component(e)
		}
		e.Ready()
		h.started(conf, e)
		select {
		case <-h.reload:
			e.NotReady()
			stopComponent()
			if err := errors.Join(e.Release(ctx), done(ctx)); err != nil {
				return err
			}
		case <-h.stop:
			if err := errors.Join(done(ctx), h.provider.Release(ctx)); err != nil {
				return err
			}
			e.NotReady()
			stopComponent()
			return e.Release(ctx)
		}
	}
}

func (h *host) start() {
	h.t.Helper()
	go func() {
		if err := h.run(); err != nil {
			h.t.Errorf("host: %v", err)
		}
	}()
	h.t.Cleanup(h.end)
}

func (h *host) end() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	<-h.stopped
}

// Conformance: 38, 65, 72, 73, 76, E8
func TestOfferIsAppliedInPlace(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.start()
	s.wait(t, "health", func() bool { return s.health.GetHealthy() || s.health.GetStatus() != "" })
	s.push(t, "h1", "receivers: {a: {x: 1}}")
	s.waitStatus(t, "h1", applied)
	s.wait(t, "effective config", func() bool { return strings.Contains(s.effective, "x: 1") })
	s.mu.Lock()
	assert.Equal(t, 1, s.connections)
	assert.Len(t, s.uids, 1)
	var states []string
	for _, status := range s.statuses {
		states = append(states, strings.TrimPrefix(status.GetStatus().String(), "RemoteConfigStatuses_"))
	}
	s.mu.Unlock()
	assert.Equal(t, []string{"APPLYING", "APPLIED"}, states[len(states)-2:])

	// A restart keeps the UID and runs the last known good.
	h.end()
	running := make(chan map[string]any, 10)
	again := newHost(t, s, h.dir)
	again.name = h.name
	again.started = func(conf map[string]any, _ *agent.ExtensionLease) { running <- conf }
	again.start()
	assert.Equal(t, map[string]any{"receivers": map[string]any{"a": map[string]any{"x": 1}}}, <-running)
	s.wait(t, "second connection", func() bool { return s.connections == 2 })
	s.mu.Lock()
	assert.Len(t, s.uids, 1)
	s.mu.Unlock()
}

// Conformance: 73, 77
func TestDryRunFailureTouchesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.dryRun = func(context.Context, preflight.Settings) preflight.Outcome {
		return preflight.Outcome{Reason: "exporters: unknown type \"x\""}
	}
	generations := 0
	h.started = func(map[string]any, *agent.ExtensionLease) { generations++ }
	h.start()
	s.wait(t, "health", func() bool { return s.health.GetStatus() != "" })
	s.push(t, "h1", "exporters: {x: {}}")
	assert.Equal(t, "exporters: unknown type \"x\"", s.waitStatus(t, "h1", failed).GetErrorMessage())
	s.push(t, "h2", "extensions: {opamp/"+t.Name()+": {server: x}}")
	assert.Contains(t, s.waitStatus(t, "h2", failed).GetErrorMessage(), `"extensions::opamp/`+t.Name()+`" is managed locally`)
	s.push(t, "h3", "receivers: {x: {path: '${file:/etc/hostname}'}}")
	assert.Contains(t, s.waitStatus(t, "h3", failed).GetErrorMessage(), `"receivers::x::path" has a reference with the scheme "file"`)
	h.end()
	assert.Equal(t, 1, generations)
}

// Conformance: 65, 73, 78
func TestPermanentErrorInTrialRollsBack(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.started = func(conf map[string]any, e *agent.ExtensionLease) {
		if conf["exporters"] != nil {
			source := componentstatus.NewInstanceID(component.MustNewID("bad"), component.KindExporter, pipeline.NewID(pipeline.SignalTraces))
			e.ComponentStatus(source, componentstatus.NewPermanentErrorEvent(errors.New("forbidden")))
		}
	}
	h.start()
	s.wait(t, "health", func() bool { return s.health.GetStatus() != "" })
	s.push(t, "good", "receivers: {a: {}}")
	s.waitStatus(t, "good", applied)
	s.push(t, "bad", "exporters: {bad: {}}")
	assert.Equal(t, "exporter bad in pipeline traces: forbidden; running last known good 676f6f64", s.waitStatus(t, "bad", failed).GetErrorMessage())
	s.wait(t, "the last known good to be reported", func() bool { return strings.Contains(s.effective, "receivers") })
	s.wait(t, "health to say so", func() bool { return strings.Contains(s.health.GetStatus(), "running last known good 676f6f64") })
}

// TestThousandStartsWithAnOfferInTheFirstAnswer: an offer that arrives while the
// first configuration is still starting must not be credited with its Ready.
func TestThousandStartsWithAnOfferInTheFirstAnswer(t *testing.T) {
	t.Parallel()
	starts := 1000
	if testing.Short() {
		starts = 50
	}
	s := startServer(t)
	for i := range starts {
		hash := fmt.Sprintf("h%d", i)
		s.set(hash, fmt.Sprintf("receivers: {a: {n: %d}}", i))
		h := newHost(t, s, t.TempDir())
		var mu sync.Mutex
		ran := map[string]bool{}
		h.started = func(conf map[string]any, _ *agent.ExtensionLease) {
			mu.Lock()
			defer mu.Unlock()
			ran[fmt.Sprint(conf)] = true
		}
		go func() {
			if err := h.run(); err != nil {
				t.Errorf("host: %v", err)
			}
		}()
		s.waitStatus(t, hash, applied)
		h.end()
		mu.Lock()
		if !ran[fmt.Sprintf("map[receivers:map[a:map[n:%d]]]", i)] {
			t.Fatalf("start %d: APPLIED was reported for a configuration that did not run: %v", i, ran)
		}
		mu.Unlock()
	}
}

func TestFolderOfAnotherProcessIsAnError(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	path, err := statedir.Locate(parent, t.Name())
	require.NoError(t, err)
	other, err := statedir.Open(path, nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, other.Close()) }()
	_, err = agent.AcquireProvider(t.Context(), t.Name(), parent, zap.NewNop())
	require.ErrorContains(t, err, fmt.Sprintf("in use by process %d", os.Getpid()))
}

// Conformance: 0x0002, 0x1000
func TestFolderThatCannotBeUsedTurnsRemoteConfigurationOff(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	s := startServer(t)
	h := newHost(t, s, file)
	h.start()
	s.wait(t, "health", func() bool { return strings.Contains(s.health.GetStatus(), "the state folder cannot be used") })
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Zero(t, s.caps&uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig|protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig))
}

// TestOtherSettingsConnectAnew: the agent leaves before it comes back, so that it
// never has two connections, and stays the same agent.
//
// Conformance: 38, 160
func TestOtherSettingsConnectAnew(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	p, err := agent.AcquireProvider(t.Context(), h.name, h.dir, zap.NewNop())
	require.NoError(t, err)
	for i := range 2 {
		set := h.settings()
		set.SameSession = i
		e, err := agent.AcquireExtension(t.Context(), h.name, set)
		require.NoError(t, err)
		s.wait(t, "the connection", func() bool { return s.connections == i+1 && len(s.uids) > 0 })
		require.NoError(t, e.Release(t.Context()))
	}
	require.NoError(t, p.Release(t.Context()))
	s.wait(t, "the last goodbye", func() bool { return len(s.comings) == 4 })
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, []string{"hello", "goodbye", "hello", "goodbye"}, s.comings)
	assert.Len(t, s.uids, 1)
}

// TestLeasesInEveryOrder releases the two leases of an agent in both orders; the
// agent ends with the last one.
func TestLeasesInEveryOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, providerFirst := range []bool{true, false} {
		h := newHost(t, s, t.TempDir())
		p, err := agent.AcquireProvider(t.Context(), h.name, h.dir, zap.NewNop())
		require.NoError(t, err)
		e, err := agent.AcquireExtension(t.Context(), h.name, h.settings())
		require.NoError(t, err)
		if providerFirst {
			require.NoError(t, p.Release(t.Context()))
			require.NoError(t, p.Release(t.Context()), "twice is harmless")
			e.Ready() // late, but attached
			require.NoError(t, e.Release(t.Context()))
		} else {
			require.NoError(t, e.Release(t.Context()))
			require.NoError(t, e.Release(t.Context()))
			e.Ready() // late: dropped
			require.NoError(t, p.Release(t.Context()))
		}
		again, err := agent.AcquireProvider(t.Context(), h.name, h.dir, zap.NewNop())
		require.NoError(t, err, "the lock was let go")
		require.NoError(t, again.Release(t.Context()))
	}
}

func TestPeekShowsWhatRunsAndTheCandidateOnlyInTheDryRun(t *testing.T) {
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	candidates := make(chan string, 10)
	h.dryRun = func(_ context.Context, set preflight.Settings) preflight.Outcome {
		t.Setenv(preflight.Env, set.Candidate)
		for _, purpose := range []process.Purpose{process.PurposeDryRun, process.PurposeOther} {
			conf, err := agent.Peek(h.name, h.dir, purpose)
			candidates <- fmt.Sprint(conf.Conf, err)
		}
		return preflight.Outcome{}
	}
	h.start()
	s.wait(t, "health", func() bool { return s.health.GetStatus() != "" })
	s.push(t, "h1", "service: {extensions: [zpages]}")
	s.waitStatus(t, "h1", applied)
	assert.Equal(t, "map[service:map[extensions:[zpages opamp/"+t.Name()+"]]] <nil>", <-candidates)
	assert.Equal(t, "map[] <nil>", <-candidates)
	conf, err := agent.Peek(h.name, h.dir, process.PurposeOther)
	require.NoError(t, err)
	assert.Equal(t, "map[service:map[extensions:[zpages opamp/"+t.Name()+"]]]", fmt.Sprint(conf.Conf))
	conf, err = agent.Peek(h.name, filepath.Join(h.dir, "none"), process.PurposeOther)
	require.NoError(t, err)
	assert.Empty(t, conf.Conf)
}
