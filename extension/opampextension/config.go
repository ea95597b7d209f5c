package opampextension

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configtls"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

// defaultPollingInterval is the specification's (Plain HTTP Transport).
const defaultPollingInterval = 30 * time.Second

// Config is what users write. Every key, default and error text of contrib's
// opampextension v0.158 is accepted unchanged.
type Config struct {
	// Server says how to reach the OpAMP server.
	Server *ServerConfig `mapstructure:"server"`

	// InstanceUID is a UUID, or a ULID of 26 characters. (default = the one in
	// the state folder, or a new one)
	InstanceUID string `mapstructure:"instance_uid"`

	// Capabilities are what is announced to the server.
	Capabilities CapabilitiesConfig `mapstructure:"capabilities"`

	// AgentDescription changes what the server is told of this agent.
	AgentDescription DescriptionConfig `mapstructure:"agent_description"`

	// PPID is the process whose end should end this one. Accepted for
	// compatibility. (default = 0, none)
	PPID int32 `mapstructure:"ppid"`

	// PPIDPollInterval is the time between two looks at PPID. (default = 5s)
	PPIDPollInterval time.Duration `mapstructure:"ppid_poll_interval"`

	// Rollout holds the durations of a change of configuration.
	Rollout RolloutConfig `mapstructure:"rollout"`

	// Policy says what a remote configuration may contain. It is in force for
	// every offer, and no remote configuration can change it.
	Policy policy.Settings `mapstructure:"policy"`

	// EffectiveConfig says how the running configuration is shown.
	EffectiveConfig EffectiveConfigConfig `mapstructure:"effective_config"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ServerConfig holds one of two transports.
type ServerConfig struct {
	WS   *WSConfig   `mapstructure:"ws,omitempty"`
	HTTP *HTTPConfig `mapstructure:"http,omitempty"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ConnectionConfig is common to the transports.
type ConnectionConfig struct {
	// Endpoint is the server's URL. Required.
	Endpoint string `mapstructure:"endpoint"`
	// TLS is used for wss and https.
	TLS configtls.ClientConfig `mapstructure:"tls,omitempty"`
	// Headers are sent with every request.
	Headers map[string]configopaque.String `mapstructure:"headers,omitempty"`
	// Auth is the ID of an extension that authenticates HTTP clients.
	Auth component.ID `mapstructure:"auth,omitempty"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// WSConfig is the WebSocket transport.
type WSConfig struct {
	ConnectionConfig `mapstructure:",squash"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// HTTPConfig is the plain HTTP transport.
type HTTPConfig struct {
	ConnectionConfig `mapstructure:",squash"`

	// PollingInterval is the time between two requests when there is nothing
	// to say. (default = 30s)
	PollingInterval time.Duration `mapstructure:"polling_interval"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// CapabilitiesConfig turns capabilities on and off.
type CapabilitiesConfig struct {
	// ReportsEffectiveConfig shows the running configuration. (default = true)
	ReportsEffectiveConfig bool `mapstructure:"reports_effective_config"`
	// ReportsHealth shows the health of all components. (default = true)
	ReportsHealth bool `mapstructure:"reports_health"`
	// ReportsAvailableComponents shows what the Collector was built with.
	// (default = true)
	ReportsAvailableComponents bool `mapstructure:"reports_available_components"`
	// ReportsHeartbeat sends a message every 30s. (default = true)
	ReportsHeartbeat bool `mapstructure:"reports_heartbeat"`
	// AcceptsRemoteConfig lets the server configure this Collector. It is in
	// force only when an opamp: URI of the same name is among --config.
	// (default = true)
	AcceptsRemoteConfig bool `mapstructure:"accepts_remote_config"`
	// AcceptsRestartCommand is accepted for compatibility and not announced
	// yet. (default = false)
	AcceptsRestartCommand bool `mapstructure:"accepts_restart_command"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// DescriptionConfig changes the agent description.
type DescriptionConfig struct {
	// NonIdentifyingAttributes are added to, or replace, the automatic ones.
	NonIdentifyingAttributes map[string]string `mapstructure:"non_identifying_attributes"`
	// IncludeResourceAttributes adds the resource attributes of the
	// Collector's own telemetry. (default = false)
	IncludeResourceAttributes bool `mapstructure:"include_resource_attributes"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// RolloutConfig holds the durations of a change of configuration.
type RolloutConfig struct {
	// PreflightTimeout limits the dry run of a candidate. (default = 30s)
	PreflightTimeout time.Duration `mapstructure:"preflight_timeout"`
	// DrainTimeout limits the time that the retiring configuration may take to
	// stop. (default = 60s)
	DrainTimeout time.Duration `mapstructure:"drain_timeout"`
	// ApplyTimeout limits the time that a candidate may take to start.
	// (default = 60s)
	ApplyTimeout time.Duration `mapstructure:"apply_timeout"`
	// TrialPeriod is how long a started candidate must stay healthy before it
	// counts as applied. (default = 5s)
	TrialPeriod time.Duration `mapstructure:"trial_period"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// EffectiveConfigConfig says how the running configuration is shown.
type EffectiveConfigConfig struct {
	// View is "references", which shows ${…} references instead of what they
	// stand for, or "expanded". (default = references)
	View string `mapstructure:"view"`

	// prevent unkeyed literal initialization
	_ struct{}
}

func createDefaultConfig() component.Config {
	rollout := agent.DefaultRollout()
	return &Config{
		Server: &ServerConfig{},
		Capabilities: CapabilitiesConfig{
			ReportsEffectiveConfig:     true,
			ReportsHealth:              true,
			ReportsAvailableComponents: true,
			ReportsHeartbeat:           true,
			AcceptsRemoteConfig:        true,
		},
		PPIDPollInterval: 5 * time.Second,
		Rollout: RolloutConfig{
			PreflightTimeout: rollout.PreflightTimeout,
			DrainTimeout:     rollout.DrainTimeout,
			ApplyTimeout:     rollout.ApplyTimeout,
			TrialPeriod:      rollout.TrialPeriod,
		},
		Policy:          policy.DefaultSettings(),
		EffectiveConfig: EffectiveConfigConfig{View: string(effectiveconfig.References)},
	}
}

// Validate implements the Collector's validation. The texts up to the instance
// UID are those of contrib's extension.
func (cfg *Config) Validate() error {
	remoteRestarts := metadata.ExtensionOpampextensionRemoteRestartsFeatureGate.IsEnabled()
	switch {
	case cfg.Capabilities.AcceptsRestartCommand && !remoteRestarts:
		return errors.New("extension.opampextension.RemoteRestarts feature gate must be enabled to use the accepts_restart_command capability")
	case cfg.Capabilities.AcceptsRestartCommand && runtime.GOOS == "windows":
		return errors.New("remote restart functionality is not available on the windows operating system")
	case cfg.Server == nil || (cfg.Server.WS == nil && cfg.Server.HTTP == nil):
		return errors.New("opamp server must have at least ws or http set")
	case cfg.Server.WS != nil && cfg.Server.HTTP != nil:
		return errors.New("opamp server must have only ws or http set")
	}
	if err := cfg.Server.validate(); err != nil {
		return err
	}
	if _, err := parseInstanceUID(cfg.InstanceUID); err != nil {
		return errors.New("opamp instance_uid is invalid")
	}
	return errors.Join(cfg.Rollout.validate(), cfg.Policy.Validate(), cfg.EffectiveConfig.validate())
}

func (s *ServerConfig) validate() error {
	endpoint := s.connection().Endpoint
	if endpoint == "" {
		return errors.New("opamp server endpoint must be provided")
	}
	if s.HTTP != nil && s.HTTP.PollingInterval < 0 {
		return errors.New("polling interval must be 0 or greater")
	}
	// opamp-go dials a WebSocket to an https URL too, so that contrib's users
	// may have one.
	key, schemes := "server::ws::endpoint", []string{"ws", "wss", "https"}
	if s.HTTP != nil {
		key, schemes = "server::http::endpoint", []string{"http", "https"}
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		// The error of the library repeats the URL, which may hold a password.
		return fmt.Errorf("`%s` must be a URL such as %s://host:4320/v1/opamp", key, schemes[1])
	}
	if !slices.Contains(schemes, u.Scheme) {
		return fmt.Errorf("`%s` must begin with %s:// or %s://, found scheme %q", key, schemes[0], schemes[1], u.Scheme)
	}
	return nil
}

func (r *RolloutConfig) validate() error {
	var errs []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"preflight_timeout", r.PreflightTimeout},
		{"drain_timeout", r.DrainTimeout},
		{"apply_timeout", r.ApplyTimeout},
		{"trial_period", r.TrialPeriod},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("`rollout::%s` must be positive, found %s", d.key, d.value))
		}
	}
	return errors.Join(errs...)
}

func (e *EffectiveConfigConfig) validate() error {
	if e.View != string(effectiveconfig.References) && e.View != string(effectiveconfig.Expanded) {
		return fmt.Errorf("`effective_config::view` must be %q or %q, found %q", effectiveconfig.References, effectiveconfig.Expanded, e.View)
	}
	return nil
}

// connection returns the part that the transports have in common. The server
// has exactly one transport after validation.
func (s *ServerConfig) connection() *ConnectionConfig {
	if s.WS != nil {
		return &s.WS.ConnectionConfig
	}
	return &s.HTTP.ConnectionConfig
}

// pollingInterval is meaningful for HTTP only.
func (s *ServerConfig) pollingInterval() time.Duration {
	if s.HTTP == nil || s.HTTP.PollingInterval == 0 {
		return defaultPollingInterval
	}
	return s.HTTP.PollingInterval
}

// tls returns nil for endpoints without TLS: opamp-go would use TLS otherwise.
func (c *ConnectionConfig) tls(ctx context.Context) (*tls.Config, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || (u.Scheme != "wss" && u.Scheme != "https") {
		return nil, err
	}
	return c.TLS.LoadTLSConfig(ctx)
}

// parseInstanceUID returns the zero UUID for an empty text.
func parseInstanceUID(text string) (uuid.UUID, error) {
	if text == "" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(text)
	if err == nil {
		return id, nil
	}
	asULID, ulidErr := ulid.Parse(text)
	if ulidErr == nil {
		return uuid.UUID(asULID), nil
	}
	return uuid.Nil, errors.Join(err, ulidErr)
}
