package opampextension

import (
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

const (
	// defaultPollingInterval is the specification's (Plain HTTP Transport).
	defaultPollingInterval = 30 * time.Second
	// defaultPPIDPollInterval is that of contrib's extension.
	defaultPPIDPollInterval = 5 * time.Second
)

// Config is what users write. Every key, default and error text of contrib's
// opampextension v0.158 is accepted unchanged.
type Config struct {
	// Server says how to reach the OpAMP server.
	Server *ServerConfig `mapstructure:"server"`

	// InstanceUID is a UUID, or a ULID of 26 characters. (default = the one in
	// the state folder, or a new one)
	InstanceUID string `mapstructure:"instance_uid"`
	// RequestInstanceUID asks the server for an instance UID if none is configured
	// and none is in the state folder. Until it answers, one that is made here is
	// used. (default = false)
	RequestInstanceUID bool `mapstructure:"request_instance_uid"`

	// Capabilities are what is announced to the server.
	Capabilities CapabilitiesConfig `mapstructure:"capabilities"`

	// AgentDescription changes what the server is told of this agent.
	AgentDescription DescriptionConfig `mapstructure:"agent_description"`

	// PPID is the process that supervises this one, usually its parent: when it
	// ends, the Collector does. It also decides what runs: no remote
	// configuration is accepted here. (default = 0, none)
	PPID int32 `mapstructure:"ppid"`

	// PPIDPollInterval is the time between two looks at PPID; 0 means the
	// default. (default = 5s)
	PPIDPollInterval time.Duration `mapstructure:"ppid_poll_interval"`

	// Rollout holds the durations of a change of configuration.
	Rollout RolloutConfig `mapstructure:"rollout"`

	// Policy says what a remote configuration may contain. It is in force for
	// every offer, and no remote configuration can change it.
	Policy policy.Settings `mapstructure:"policy"`

	// EffectiveConfig says how the running configuration is shown.
	EffectiveConfig EffectiveConfigConfig `mapstructure:"effective_config"`

	// ConnectionSettings says how offered connections are tried.
	ConnectionSettings ConnectionSettingsConfig `mapstructure:"connection_settings"`

	// Certificate is about this agent's client certificate.
	Certificate CertificateConfig `mapstructure:"certificate"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ServerConfig holds one of two transports.
type ServerConfig struct {
	WS   *ConnectionConfig `mapstructure:"ws,omitempty"`
	HTTP *HTTPConfig       `mapstructure:"http,omitempty"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ConnectionConfig is the WebSocket transport, and what plain HTTP has in common
// with it.
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

// HTTPConfig is the plain HTTP transport. The fields of [ConnectionConfig] are
// repeated: for an embedded struct the host's validation would name keys that
// nobody can write.
type HTTPConfig struct {
	// Endpoint is the server's URL. Required.
	Endpoint string `mapstructure:"endpoint"`
	// TLS is used for https.
	TLS configtls.ClientConfig `mapstructure:"tls,omitempty"`
	// Headers are sent with every request.
	Headers map[string]configopaque.String `mapstructure:"headers,omitempty"`
	// Auth is the ID of an extension that authenticates HTTP clients.
	Auth component.ID `mapstructure:"auth,omitempty"`
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

	// ReportsOwnMetrics, ReportsOwnTraces and ReportsOwnLogs let the server say
	// where the Collector's own telemetry is sent besides the local destinations.
	// They are in force only with an opamp: URI. (default = false)
	ReportsOwnMetrics bool `mapstructure:"reports_own_metrics"`
	ReportsOwnTraces  bool `mapstructure:"reports_own_traces"`
	ReportsOwnLogs    bool `mapstructure:"reports_own_logs"`
	// AcceptsOpAMPConnectionSettings lets the server change how it is reached:
	// what does not work is reverted. (default = false)
	AcceptsOpAMPConnectionSettings bool `mapstructure:"accepts_opamp_connection_settings"`
	// AcceptsOtherConnectionSettings lets the server give values for
	// ${opamp:#other_connections/…}. It is in force only with an opamp: URI.
	// (default = false)
	AcceptsOtherConnectionSettings bool `mapstructure:"accepts_other_connection_settings"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ConnectionSettingsConfig holds how offered settings of the connection to the
// server are tried.
type ConnectionSettingsConfig struct {
	// VerifyTimeout is how long the server may take to answer over a connection
	// with offered settings before they are reverted. (default = 45s)
	VerifyTimeout time.Duration `mapstructure:"verify_timeout"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// CertificateConfig is about the client certificate of this agent.
type CertificateConfig struct {
	// Request asks the server for a certificate whose key is made here, and for
	// the next one when two thirds of its lifetime have passed. It needs
	// accepts_opamp_connection_settings. (default = false)
	Request bool `mapstructure:"request"`
	// EphemeralStorage says that the state folder does not last although it looks
	// so: certificates are neither requested nor accepted then. (default = false)
	EphemeralStorage bool `mapstructure:"ephemeral_storage"`
	// RemoveBootstrap deletes server::*::tls::cert_file and key_file once a
	// certificate of the server is in use. (default = false)
	RemoveBootstrap bool `mapstructure:"remove_bootstrap"`

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
		PPIDPollInterval: defaultPPIDPollInterval,
		Rollout: RolloutConfig{
			PreflightTimeout: rollout.PreflightTimeout,
			DrainTimeout:     rollout.DrainTimeout,
			ApplyTimeout:     rollout.ApplyTimeout,
			TrialPeriod:      rollout.TrialPeriod,
		},
		Policy:          policy.DefaultSettings(),
		EffectiveConfig: EffectiveConfigConfig{View: string(effectiveconfig.References)},
		// Longer than one request over HTTP may take, which is 30 s.
		ConnectionSettings: ConnectionSettingsConfig{VerifyTimeout: 45 * time.Second},
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
	return errors.Join(cfg.validateParent(), cfg.Rollout.validate(), cfg.Policy.Validate(), cfg.EffectiveConfig.validate(), cfg.validateConnections())
}

// Validate is called by the host, and by the extension's own validation: like
// contrib's, a transport's mistake is told with its path and without.
func (c *ConnectionConfig) Validate() error {
	if c.Endpoint == "" {
		return errors.New("opamp server endpoint must be provided")
	}
	return nil
}

// Validate is called like that of [ConnectionConfig].
func (c *HTTPConfig) Validate() error {
	if c.Endpoint == "" {
		return errors.New("opamp server endpoint must be provided")
	}
	if c.PollingInterval < 0 {
		return errors.New("polling interval must be 0 or greater")
	}
	return nil
}

// validateParent refuses what could only be a loop without pause, or never end
// the process.
func (cfg *Config) validateParent() error {
	if cfg.PPID < 0 {
		return fmt.Errorf("`ppid` must be 0 or greater, found %d", cfg.PPID)
	}
	if cfg.PPID > 0 && cfg.PPIDPollInterval <= 0 {
		return fmt.Errorf("`ppid_poll_interval` must be positive, found %s", cfg.PPIDPollInterval)
	}
	return nil
}

func (s *ServerConfig) validate() error {
	var err error
	if s.WS != nil {
		err = s.WS.Validate()
	} else {
		err = s.HTTP.Validate()
	}
	if err != nil {
		return err
	}
	// opamp-go dials a WebSocket to an https URL too, so that contrib's users
	// may have one.
	key, schemes := "server::ws::endpoint", []string{"ws", "wss", "https"}
	if s.HTTP != nil {
		key, schemes = "server::http::endpoint", []string{"http", "https"}
	}
	u, err := url.Parse(s.connection().Endpoint)
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

func (cfg *Config) validateConnections() error {
	var errs []error
	if d := cfg.ConnectionSettings.VerifyTimeout; d <= 0 {
		errs = append(errs, fmt.Errorf("`connection_settings::verify_timeout` must be positive, found %s", d))
	}
	if cfg.Certificate.Request && !cfg.Capabilities.AcceptsOpAMPConnectionSettings {
		errs = append(errs, errors.New("`certificate::request` needs `capabilities::accepts_opamp_connection_settings`: the certificate comes with connection settings"))
	}
	return errors.Join(errs...)
}

// connection returns the part that the transports have in common. The server
// has exactly one transport after validation.
func (s *ServerConfig) connection() *ConnectionConfig {
	if s.WS != nil {
		return s.WS
	}
	return &ConnectionConfig{Endpoint: s.HTTP.Endpoint, TLS: s.HTTP.TLS, Headers: s.HTTP.Headers, Auth: s.HTTP.Auth}
}

// pollingInterval is meaningful for HTTP only.
func (s *ServerConfig) pollingInterval() time.Duration {
	if s.HTTP == nil || s.HTTP.PollingInterval == 0 {
		return defaultPollingInterval
	}
	return s.HTTP.PollingInterval
}

// tls returns what is used for the local endpoint: nil for one without TLS, where
// opamp-go would use TLS otherwise.
func (c *ConnectionConfig) tls(loaded *tls.Config) *tls.Config {
	u, err := url.Parse(c.Endpoint)
	if err != nil || (u.Scheme != "wss" && u.Scheme != "https") {
		return nil
	}
	return loaded
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
