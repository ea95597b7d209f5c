package opampextension

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// opampExtension forwards what the host tells to the agent.
type opampExtension struct {
	set extension.Settings
	cfg *Config

	// lease is nil before Start and after Shutdown. The host may report status
	// at any time.
	lease atomic.Pointer[agent.ExtensionLease]
	// stopped: Shutdown was called after Start.
	stopped atomic.Bool
	// telemetry is nil before Start.
	telemetry *metadata.TelemetryBuilder
	// ready is closed by the first Ready.
	ready     chan struct{}
	readyOnce sync.Once
	parent    *parentWatch
	// stopProcess ends the metrics of the process; nil before Start.
	stopProcess func() error
}

var (
	_ extension.Extension                         = (*opampExtension)(nil)
	_ extensioncapabilities.Dependent             = (*opampExtension)(nil)
	_ extensioncapabilities.ConfigSnapshotWatcher = (*opampExtension)(nil)
	_ extensioncapabilities.PipelineWatcher       = (*opampExtension)(nil)
	_ componentstatus.Watcher                     = (*opampExtension)(nil)
)

func newExtension(set extension.Settings, cfg *Config) *opampExtension {
	return &opampExtension{set: set, cfg: cfg, ready: make(chan struct{})}
}

// Dependencies implements [extensioncapabilities.Dependent].
func (e *opampExtension) Dependencies() []component.ID {
	if id := e.cfg.Server.connection().Auth; id != (component.ID{}) {
		return []component.ID{id}
	}
	return nil
}

// Start implements [component.Component]. It does not wait for the server.
func (e *opampExtension) Start(ctx context.Context, host component.Host) error {
	set, err := e.settings(ctx, host)
	if err != nil {
		return err
	}
	if e.cfg.Capabilities.AcceptsRestartCommand {
		set.Restart = func() {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(errRestart))
		}
	}
	if e.telemetry, err = metadata.NewTelemetryBuilder(e.set.TelemetrySettings); err != nil {
		return fmt.Errorf("creating the metrics of this extension: %w", err)
	}
	set.Applied = func(took time.Duration) {
		e.telemetry.OpampApplyDuration.Record(context.Background(), took.Seconds())
	}
	lease, err := agent.AcquireExtension(ctx, e.set.ID.Name(), set)
	if err != nil {
		e.telemetry.Shutdown()
		return fmt.Errorf("starting the OpAMP agent: %w", err)
	}
	if err := observe(e.telemetry, lease); err != nil {
		e.telemetry.Shutdown()
		return errors.Join(fmt.Errorf("registering the metrics of this extension: %w", err), lease.Release(ctx))
	}
	e.stopProcess = func() error { return nil }
	if e.cfg.Capabilities.ReportsOwnMetrics {
		meter := e.set.MeterProvider.Meter(metadata.ScopeName)
		// A system on which they cannot be read is no reason not to start.
		if stop, err := observeProcess(meter); err == nil {
			e.stopProcess = stop
		} else {
			e.set.Logger.Warn("The metrics of the process (process.*) are not reported", zap.Error(err))
		}
	}
	e.lease.Store(lease)
	e.parent = e.watchParent(host)
	return nil
}

// errRestart ends the Collector in order: nothing else that a component may do
// does.
var errRestart = errors.New("restarting: the OpAMP server wants it")

func (e *opampExtension) settings(ctx context.Context, host component.Host) (agent.ExtensionSettings, error) {
	connection := e.cfg.Server.connection()
	connections, err := e.connections(ctx)
	if err != nil {
		return agent.ExtensionSettings{}, fmt.Errorf("loading the TLS settings of the OpAMP server: %w", err)
	}
	authorize, err := authorization(connection.Auth, host)
	if err != nil {
		return agent.ExtensionSettings{}, err
	}
	uid, err := parseInstanceUID(e.cfg.InstanceUID)
	if err != nil {
		return agent.ExtensionSettings{}, fmt.Errorf("parsing `instance_uid`: %w", err)
	}
	rules, err := policy.New(e.cfg.Policy)
	if err != nil {
		return agent.ExtensionSettings{}, fmt.Errorf("reading `policy`: %w", err)
	}
	header := http.Header{}
	for key, value := range connection.Headers {
		header.Set(key, string(value))
	}
	transport := session.WebSocket
	if e.cfg.Server.HTTP != nil {
		transport = session.HTTP
	}
	capabilities := e.cfg.Capabilities
	set := agent.ExtensionSettings{
		ID:       e.set.ID.String(),
		Requires: []string{e.set.ID.String()},
		Session: session.Settings{
			Transport:       transport,
			Endpoint:        connection.Endpoint,
			Header:          header,
			TLS:             connection.tls(connections.TLS),
			PollingInterval: e.cfg.Server.pollingInterval(),
			Capabilities: session.Capabilities{
				EffectiveConfig:     capabilities.ReportsEffectiveConfig,
				Health:              capabilities.ReportsHealth,
				AvailableComponents: capabilities.ReportsAvailableComponents,
				Heartbeat:           capabilities.ReportsHeartbeat,
				Restart:             capabilities.AcceptsRestartCommand,
			},
		},
		SameSession:         sameSession{*e.cfg.Server, capabilities, e.cfg.InstanceUID},
		Authorize:           authorize,
		InstanceUID:         uid,
		RequestUID:          e.cfg.RequestInstanceUID,
		Describe:            e.describe,
		Components:          components(host),
		AcceptsRemoteConfig: capabilities.AcceptsRemoteConfig,
		Supervised:          e.cfg.PPID != 0,
		Rollout:             e.cfg.Rollout.durations(),
		Policy:              rules,
		View:                effectiveconfig.View(e.cfg.EffectiveConfig.View),
		Connections:         connections,
		Log:                 e.set.Logger,
	}
	for _, id := range e.Dependencies() {
		set.Requires = append(set.Requires, id.String())
	}
	return set, nil
}

// sameSession is what a session depends on.
type sameSession struct {
	server       ServerConfig
	capabilities CapabilitiesConfig
	uid          string
}

func (r RolloutConfig) durations() agent.Rollout {
	return agent.Rollout{
		PreflightTimeout: r.PreflightTimeout,
		DrainTimeout:     r.DrainTimeout,
		ApplyTimeout:     r.ApplyTimeout,
		TrialPeriod:      r.TrialPeriod,
	}
}

// Shutdown implements [component.Component]. It may be called without Start.
func (e *opampExtension) Shutdown(ctx context.Context) error {
	lease := e.lease.Swap(nil)
	if lease == nil {
		return nil
	}
	e.stopped.Store(true)
	e.parent.stop()
	e.telemetry.Shutdown()
	if err := e.stopProcess(); err != nil {
		e.set.Logger.Warn("Ending the metrics of the process", zap.Error(err))
	}
	// The host has no use for an error: it would report this extension as
	// failed although the process, or the next generation, goes on.
	if err := lease.Release(ctx); err != nil {
		e.set.Logger.Warn("Ending the OpAMP agent", zap.Error(err))
	}
	return nil
}

// NotifyConfigSnapshot implements [extensioncapabilities.ConfigSnapshotWatcher].
func (e *opampExtension) NotifyConfigSnapshot(_ context.Context, snapshot extensioncapabilities.ConfigSnapshot) error {
	lease := e.lease.Load()
	if lease == nil {
		return nil
	}
	var s effectiveconfig.Snapshot
	if conf := snapshot.Effective(); conf != nil {
		s.Effective = conf.ToStringMap()
	}
	if conf := snapshot.Unexpanded(); conf != nil {
		s.Unexpanded = conf.ToStringMap()
	}
	lease.NotifyConfig(s)
	return nil
}

// Ready implements [extensioncapabilities.PipelineWatcher].
func (e *opampExtension) Ready() error {
	e.readyOnce.Do(func() { close(e.ready) })
	if lease := e.lease.Load(); lease != nil {
		lease.Ready()
	}
	return nil
}

// NotReady implements [extensioncapabilities.PipelineWatcher].
func (e *opampExtension) NotReady() error {
	if lease := e.lease.Load(); lease != nil {
		lease.NotReady()
	}
	return nil
}

// ComponentStatusChanged implements [componentstatus.Watcher]. The host calls it
// under a lock, so it only posts.
func (e *opampExtension) ComponentStatusChanged(source *componentstatus.InstanceID, event *componentstatus.Event) {
	if event.Status() == componentstatus.StatusFatalError && source.Kind() == component.KindExtension && source.ComponentID() == e.set.ID {
		return // an orphan ends: nothing has failed, and nothing is to be started again
	}
	if lease := e.lease.Load(); lease != nil {
		lease.ComponentStatus(source, event)
		return
	}
	if !e.stopped.Load() {
		agent.NoteEarly(e.set.ID.Name(), source, event)
	}
}
