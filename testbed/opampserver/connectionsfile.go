package opampserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"go.yaml.in/yaml/v3"
)

// connectionsFile is an offer of connection settings as people write it.
type connectionsFile struct {
	Hash             string                     `yaml:"hash"`
	OpAMP            *connectionBlock           `yaml:"opamp"`
	OwnMetrics       *connectionBlock           `yaml:"own_metrics"`
	OwnTraces        *connectionBlock           `yaml:"own_traces"`
	OwnLogs          *connectionBlock           `yaml:"own_logs"`
	OtherConnections map[string]connectionBlock `yaml:"other_connections"`
}

type connectionBlock struct {
	Endpoint    string            `yaml:"endpoint"`
	Headers     map[string]string `yaml:"headers"`
	Certificate *struct {
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
		CA   string `yaml:"ca"`
	} `yaml:"certificate"`
	TLS *struct {
		CA                 string   `yaml:"ca"`
		SystemCAs          bool     `yaml:"system_cas"`
		InsecureSkipVerify bool     `yaml:"insecure_skip_verify"`
		MinVersion         string   `yaml:"min_version"`
		MaxVersion         string   `yaml:"max_version"`
		CipherSuites       []string `yaml:"cipher_suites"`
	} `yaml:"tls"`
	Proxy *struct {
		URL            string            `yaml:"url"`
		ConnectHeaders map[string]string `yaml:"connect_headers"`
	} `yaml:"proxy"`
	// Heartbeat is of the OpAMP connection only, Other of a named one.
	Heartbeat time.Duration     `yaml:"heartbeat"`
	Other     map[string]string `yaml:"other"`
}

// ParseConnections reads an offer of connection settings from YAML or JSON:
//
//	hash: any text                     # optional
//	opamp:
//	  endpoint: wss://example.com/v1/opamp
//	  headers: {Authorization: Bearer token}
//	  certificate: {cert: PEM, key: PEM, ca: PEM}
//	  tls: {ca: PEM, system_cas: true, insecure_skip_verify: false, min_version: "1.2", max_version: "1.3", cipher_suites: []}
//	  proxy: {url: http://proxy:3128, connect_headers: {}}
//	  heartbeat: 30s
//	own_metrics: {}                    # the same but heartbeat; an empty endpoint withdraws
//	own_traces: {}
//	own_logs: {}
//	other_connections:
//	  backend: {endpoint: https://example.com:4318, other: {key: value}}
//
// What is left out is not offered. A key that is not known is an error.
func ParseConnections(text []byte) (*protobufs.ConnectionSettingsOffers, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var file connectionsFile
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading connection settings: %w", err)
	}
	for name, block := range map[string]*connectionBlock{"own_metrics": file.OwnMetrics, "own_traces": file.OwnTraces, "own_logs": file.OwnLogs} {
		if block != nil && (block.Heartbeat != 0 || block.Other != nil) {
			return nil, fmt.Errorf("reading connection settings: %s has no heartbeat and nothing under %q", name, "other")
		}
	}
	o := &protobufs.ConnectionSettingsOffers{
		Hash:       []byte(file.Hash),
		OwnMetrics: file.OwnMetrics.telemetry(),
		OwnTraces:  file.OwnTraces.telemetry(),
		OwnLogs:    file.OwnLogs.telemetry(),
	}
	if b := file.OpAMP; b != nil {
		if b.Other != nil || b.Heartbeat < 0 || b.Heartbeat%time.Second != 0 {
			return nil, errors.New("reading connection settings: opamp has nothing under \"other\", and a heartbeat of whole seconds")
		}
		o.Opamp = &protobufs.OpAMPConnectionSettings{
			DestinationEndpoint: b.Endpoint, Headers: headersOf(b.Headers),
			Certificate: b.certificate(), Tls: b.tls(), Proxy: b.proxy(),
			HeartbeatIntervalSeconds: uint64(b.Heartbeat / time.Second),
		}
	}
	for name, b := range file.OtherConnections {
		if b.Heartbeat != 0 {
			return nil, fmt.Errorf("reading connection settings: %s has no heartbeat", name)
		}
		if o.OtherConnections == nil {
			o.OtherConnections = map[string]*protobufs.OtherConnectionSettings{}
		}
		o.OtherConnections[name] = &protobufs.OtherConnectionSettings{
			DestinationEndpoint: b.Endpoint, Headers: headersOf(b.Headers), OtherSettings: b.Other,
			Certificate: b.certificate(), Tls: b.tls(), Proxy: b.proxy(),
		}
	}
	return o, nil
}

func (b *connectionBlock) telemetry() *protobufs.TelemetryConnectionSettings {
	if b == nil {
		return nil
	}
	return &protobufs.TelemetryConnectionSettings{
		DestinationEndpoint: b.Endpoint, Headers: headersOf(b.Headers),
		Certificate: b.certificate(), Tls: b.tls(), Proxy: b.proxy(),
	}
}

func (b *connectionBlock) certificate() *protobufs.TLSCertificate {
	if b.Certificate == nil {
		return nil
	}
	return &protobufs.TLSCertificate{
		Cert: []byte(b.Certificate.Cert), PrivateKey: []byte(b.Certificate.Key), CaCert: []byte(b.Certificate.CA),
	}
}

func (b *connectionBlock) tls() *protobufs.TLSConnectionSettings {
	if b.TLS == nil {
		return nil
	}
	return &protobufs.TLSConnectionSettings{
		CaPemContents: b.TLS.CA, IncludeSystemCaCertsPool: b.TLS.SystemCAs, InsecureSkipVerify: b.TLS.InsecureSkipVerify,
		MinVersion: b.TLS.MinVersion, MaxVersion: b.TLS.MaxVersion, CipherSuites: b.TLS.CipherSuites,
	}
}

func (b *connectionBlock) proxy() *protobufs.ProxyConnectionSettings {
	if b.Proxy == nil {
		return nil
	}
	return &protobufs.ProxyConnectionSettings{Url: b.Proxy.URL, ConnectHeaders: headersOf(b.Proxy.ConnectHeaders)}
}

// headersOf is nil for nil: headers that are left out stay as they are.
func headersOf(headers map[string]string) *protobufs.Headers {
	if headers == nil {
		return nil
	}
	list := &protobufs.Headers{}
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		list.Headers = append(list.Headers, &protobufs.Header{Key: key, Value: headers[key]})
	}
	return list
}
