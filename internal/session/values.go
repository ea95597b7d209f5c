package session

import (
	"crypto/tls"
	"net/http"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// Transport is how the agent talks to the server.
type Transport string

// The transports.
const (
	WebSocket Transport = "ws"
	HTTP      Transport = "http"
)

// Settings are fixed for the life of a session.
type Settings struct {
	Transport Transport
	// Endpoint is the server's URL.
	Endpoint string
	// Header is sent with every request.
	Header http.Header
	// Authorize returns headers to be added to Header before each connection
	// attempt. If it fails nothing is sent. It may be nil, may block until ctx
	// ends, and may be called by any goroutine.
	Authorize func(Request) (http.Header, error)
	// TLS is used for wss and https; it must be nil otherwise.
	TLS *tls.Config
	// Proxy is the one to connect through; nil for that of the environment, if
	// there is one. Its headers are sent with CONNECT: over WebSocket, and over
	// HTTP to an https endpoint.
	Proxy *connsettings.Proxy
	// HeartbeatInterval is the time between two messages when there is nothing to
	// say; 0 for 30 s. Over HTTP it is PollingInterval. It holds whatever the
	// server offers.
	HeartbeatInterval time.Duration
	// PollingInterval is the time between two requests over HTTP when there is
	// nothing to say.
	PollingInterval time.Duration
	// InstanceUID identifies the agent.
	InstanceUID [16]byte
	// RequestInstanceUID asks the server for another one, which comes back through
	// the callback Identified.
	RequestInstanceUID bool
	// Capabilities are announced to the server.
	Capabilities Capabilities
	// Initial is what the first message reports.
	Initial  State
	Callback Callbacks
	// Counters are counted up; they may be those of an earlier session. Nil
	// counts nothing.
	Counters *Counters
	// Pace decides when attempts are made; it may be that of an earlier session,
	// which has ended. Nil knows of no earlier attempt.
	Pace *Pace
	Log  Logger

	times   *times // those of tests; nil for the default
	onFetch func() // of tests: called while the client prepares a message
}

// Request is what an authorization may depend on.
type Request struct {
	Method string
	URL    string
	// Timeout is how long the authorization may take.
	Timeout time.Duration
}

// Capabilities say what the agent offers to the server.
type Capabilities struct {
	EffectiveConfig, Health, AvailableComponents, Heartbeat, RemoteConfig, Restart bool
	// With any of these the status of connection settings is reported, too.
	OpAMPSettings, OtherSettings, OwnMetrics, OwnTraces, OwnLogs bool
}

// connectionSettings tells whether the agent takes any connection settings.
func (c Capabilities) connectionSettings() bool {
	return c.OpAMPSettings || c.OtherSettings || c.OwnMetrics || c.OwnTraces || c.OwnLogs
}

// State is all that an agent reports.
type State struct {
	Description     Description
	Health          health.Node
	EffectiveConfig []byte // YAML; nil while unknown
	Components      Components
	RemoteConfig    RemoteConfigStatus
	// Settings is sent only if connection settings are among the capabilities.
	Settings SettingsStatus
	// CustomCapabilities are sorted.
	CustomCapabilities []string
}

// Description says who the agent is. Values are strings, booleans, integers
// (int64), floats, byte slices, []any or map[string]any.
type Description struct {
	Identifying    map[string]any
	NonIdentifying map[string]any
}

// Components are what the Collector was built with, by kind
// ("receivers", …) and type; the value is the Go module and its version.
type Components map[string]map[string]string

// RemoteConfigStatus is the state of the offer with the given hash; the zero
// value means that none was received.
type RemoteConfigStatus struct {
	Hash    []byte
	State   RemoteConfigState
	Message string
}

// SettingsStatus is the state of the offer of connection settings with the given
// hash; the zero value means that none was received.
type SettingsStatus struct {
	// Open means that the offer is to be told of if it comes again; for the first
	// status of a session only.
	Open bool

	Hash    []byte
	State   RemoteConfigState
	Message string
}

// RemoteConfigState is the protocol's RemoteConfigStatuses, and its
// ConnectionSettingsStatuses.
type RemoteConfigState string

// The states.
const (
	Unset    RemoteConfigState = ""
	Applying RemoteConfigState = "applying"
	Applied  RemoteConfigState = "applied"
	Failed   RemoteConfigState = "failed"
)

// Callbacks are what a session tells. None may be nil, block, or call the
// session. They are called one at a time per kind, on goroutines of the client.
type Callbacks struct {
	// Connected: the transport connected. Over HTTP: a request was answered.
	Connected func()
	// ConnectFailed: an attempt or a request failed, or the server wants to be
	// left alone; the agent comes back. It is called once per attempt. See
	// [Certain].
	ConnectFailed func(error)
	// ServerError: the server answered with an error, or with an offer that cannot
	// be used.
	ServerError func(kind, message string)
	// Answered: the server answered, and not with an error. It is called for each
	// such message, a moment after it.
	Answered func()
	// Settings: the server offered connection settings. It has the parts that are
	// among the capabilities, perhaps none; the offer needs a status in any case,
	// since the client has reported Applying by itself. It comes again with each
	// session in which the server sends it. Nothing is told once Stop was called.
	Settings func(connsettings.Offer)
	// Offered: the server sent a remote configuration.
	Offered func(remoteconfig.Offer)
	// Restart: the server wants the Collector to be restarted.
	Restart func()
	// Identified: the server gave the agent another instance UID, under which
	// everything is sent from now on.
	Identified func(uid [16]byte)
	// CustomMessage: the server sent a message of a custom capability that is
	// announced. The data must not be modified.
	CustomMessage func(capability, kind string, data []byte)
}

// Logger takes what opamp-go logs.
type Logger interface {
	Debugf(format string, v ...any)
	Errorf(format string, v ...any)
}
