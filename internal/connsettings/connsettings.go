package connsettings

import (
	"net/http"
	"time"
)

// Connection is what is known of one connection. Parts that are unset are nil or
// empty.
type Connection struct {
	// Endpoint is a URL.
	Endpoint string `json:"endpoint,omitempty"`
	// Headers have canonical keys.
	Headers     http.Header  `json:"headers,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	TLS         *TLS         `json:"tls,omitempty"`
	Proxy       *Proxy       `json:"proxy,omitempty"`
	// Heartbeat is the time between two messages of an idle agent; the OpAMP
	// connection only. Zero for what is local; an hour at most.
	Heartbeat time.Duration `json:"heartbeat,omitempty"`
	// Other are further settings of a connection that has a name.
	Other map[string]string `json:"other,omitempty"`
}

// Certificate is a client's, all parts in PEM.
type Certificate struct {
	Cert []byte `json:"cert,omitempty"`
	// Key is empty if it is the one that was made here for a request.
	Key []byte `json:"key,omitempty"`
}

// TLS says how a server is verified.
type TLS struct {
	// CA are certificates in PEM.
	CA                 []byte `json:"ca,omitempty"`
	SystemCAs          bool   `json:"system_cas,omitempty"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty"`
	// MinVersion and MaxVersion are "1.2" or "TLSv1.2"; empty for the default.
	MinVersion   string   `json:"min_version,omitempty"`
	MaxVersion   string   `json:"max_version,omitempty"`
	CipherSuites []string `json:"cipher_suites,omitempty"`
}

// Proxy is an HTTP or SOCKS5 proxy.
type Proxy struct {
	URL            string      `json:"url"`
	ConnectHeaders http.Header `json:"connect_headers,omitempty"`
}

// Signal is a kind of own telemetry.
type Signal string

// The signals, as they are called in values of the provider.
const (
	Metrics Signal = "own_metrics"
	Traces  Signal = "own_traces"
	Logs    Signal = "own_logs"
)

// Offer is what a server sent. Parts that are nil are not offered and stay as they
// are.
type Offer struct {
	// Hash is the server's, for everything in the offer.
	Hash []byte
	// OpAMP is the connection to the server itself.
	OpAMP *Connection
	// Own are destinations of own telemetry; one without an endpoint is withdrawn.
	Own map[Signal]Connection
	// Others are connections by name. The names that are not in it are withdrawn.
	Others map[string]Connection
}

// Values are the connections that are part of the configuration.
type Values struct {
	Own    map[Signal]Destination `json:"own,omitempty"`
	Others map[string]Destination `json:"others,omitempty"`
	// Resource are the attributes of own telemetry: those of the agent description.
	Resource map[string]string `json:"resource,omitempty"`
}

// Destination is a connection as the configuration refers to it: certificates are
// in files.
type Destination struct {
	Endpoint string            `json:"endpoint,omitempty"`
	Headers  http.Header       `json:"headers,omitempty"`
	TLS      *TLS              `json:"tls,omitempty"`
	Proxy    *Proxy            `json:"proxy,omitempty"`
	Other    map[string]string `json:"other,omitempty"`
	// CAFile, CertFile and KeyFile are relative to the folder of connections, with
	// slashes; empty if there is none.
	CAFile   string `json:"ca_file,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
}
