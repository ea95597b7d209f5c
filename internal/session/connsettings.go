package session

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// heard is what the latest message of the server's has brought. opamp-go tells it
// in pieces, one after the other on one goroutine, and does not say when it is
// through. A message with an offer, whose parts belong together however long the
// process is held up between them, is over when the client turns to what comes next:
// see [heard.next]. Any other is over after [settleAfter], or with the next message.
type heard struct {
	status bool        // the client reports the status of offers by itself
	timer  *time.Timer // runs out when the message is over

	mu       sync.Mutex          // guards everything below; held during the callbacks told here
	answered bool                // and this was not yet told
	offer    *connsettings.Offer // not yet told; nil for none
	inside   bool                // the client may have more parts of the offer
	nameless bool                // an offer without a hash was told of in this session
}

func newHeard(c Capabilities) *heard {
	h := &heard{status: c.connectionSettings(), timer: time.NewTimer(settleAfter)}
	h.timer.Stop()
	return h
}

// settle tells what messages have brought, until the session is stopped.
func (s *Session) settle() {
	for {
		select {
		case <-s.stopping:
			s.heard.timer.Stop()
			return
		case <-s.heard.timer.C:
			s.keepInterval()
			s.heard.mu.Lock()
			if !s.heard.inside { // else the timer was that of the message before
				s.tellLocked()
			}
			s.heard.mu.Unlock()
		}
	}
}

// next is called when the client turns to what comes after a message: over
// WebSocket it reads from the connection, over HTTP it makes the next request, and
// that at once, because it has the status of the offer to report. A test pins both.
func (h *heard) next() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inside {
		h.inside = false
		h.timer.Reset(0)
	}
}

// tellLocked tells what is not yet told.
func (s *Session) tellLocked() {
	h := s.heard
	answered, offer := h.answered, h.offer
	h.answered, h.offer, h.inside = false, nil, false
	if s.ending() {
		return
	}
	if answered {
		s.callback.Answered()
	}
	if offer != nil {
		s.callback.Settings(*offer)
	}
}

// knowOffer makes the client take an offer with this hash for one that it had before:
// a new client would report it as being applied, and pass it on.
func knowOffer(c client.OpAMPClient, s SettingsStatus) {
	if s.Open || len(s.Hash) == 0 {
		return
	}
	if state := stateOf(c); state != nil {
		state.SetLastConnectionSettingsHash(s.Hash)
	}
}

// heardMessage is the beginning of each message.
func (s *Session) heardMessage(m *types.MessageData) {
	h := s.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	s.tellLocked()
	h.timer.Reset(settleAfter)
	h.answered = true
	if !h.status {
		return
	}
	own, hash := ownOf(m), bytes.Clone(m.OfferedConnectionsSettingsHash)
	switch {
	case len(hash) > 0:
		h.timer.Stop()
		h.inside = true
		h.offer = &connsettings.Offer{Hash: hash, Own: own, Others: othersOf(m.OtherConnSettings)}
	case own != nil || m.OtherConnSettings != nil:
		s.namelessLocked()
	}
}

// heardOpAMP is the part for the connection to the server.
func (s *Session) heardOpAMP(c *protobufs.OpAMPConnectionSettings) {
	h := s.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.offer == nil {
		s.namelessLocked()
		return
	}
	h.offer.OpAMP = connectionFrom(c)
	h.offer.OpAMP.Heartbeat = seconds(c.GetHeartbeatIntervalSeconds())
}

// heardError is the end of a message that says that the agent's was no good.
func (s *Session) heardError() {
	s.heard.mu.Lock()
	defer s.heard.mu.Unlock()
	s.heard.answered = false
}

// heardCommand is a message of which nothing else is told.
func (s *Session) heardCommand() {
	s.heard.mu.Lock()
	defer s.heard.mu.Unlock()
	s.tellLocked()
	s.heard.answered = true
	s.tellLocked()
}

// namelessLocked drops an offer without a hash, which can have no status. The
// client has reported Applying for it: that is replaced by the status before, if
// there was one.
func (s *Session) namelessLocked() {
	if status := s.status.Load(); status != nil {
		_ = s.client.SetConnectionSettingsStatus(status) // it was taken before
	}
	if !s.heard.nameless { // a server may repeat it in every message
		s.heard.nameless = true
		s.callback.ServerError("ConnectionSettings", "an offer of connection settings without a hash is ignored: the server must send a hash, by which the agent reports what became of it")
	}
}

// syncedState is what the client remembers to have reported.
type syncedState interface {
	ConnectionSettingsStatus() *protobufs.ConnectionSettingsStatus
	SetConnectionSettingsStatus(*protobufs.ConnectionSettingsStatus) error
	SetLastConnectionSettingsHash(hash []byte)
}

// stateOf returns what a client remembers; nil if it is not what it is expected to
// be. A test pins where it is.
func stateOf(c client.OpAMPClient) syncedState {
	common := field(reflect.ValueOf(c), "common")
	if !common.IsValid() {
		return nil
	}
	state := field(common.Addr(), "ClientSyncedState")
	if !state.IsValid() {
		return nil
	}
	found, _ := reflect.TypeAssert[syncedState](state.Addr())
	return found
}

// SetSettingsStatus reports the state of an offer of connection settings, which
// must have a hash; it replaces any other, also that of a former session. Nothing
// is sent for [Unset], or for what was reported last. It is an error if no
// capability of connection settings is announced.
func (s *Session) SetSettingsStatus(status SettingsStatus) error {
	m := status.protobuf()
	if m == nil {
		return nil
	}
	// opamp-go keeps the final status of a hash against another one, so that one
	// that FAILED could not be APPLIED after all. It lets Applying be replaced.
	if state := stateOf(s.client); state != nil {
		told := state.ConnectionSettingsStatus()
		if proto.Equal(told, m) {
			return nil
		}
		if told != nil && bytes.Equal(told.GetLastConnectionSettingsHash(), status.Hash) {
			open := &protobufs.ConnectionSettingsStatus{
				LastConnectionSettingsHash: status.Hash,
				Status:                     protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING,
			}
			if err := state.SetConnectionSettingsStatus(open); err != nil {
				return fmt.Errorf("reporting the status of connection settings: %w", err)
			}
		}
	}
	if err := s.client.SetConnectionSettingsStatus(m); err != nil {
		return fmt.Errorf("reporting the status of connection settings: %w", err)
	}
	s.status.Store(m)
	s.report()
	return nil
}

// RequestCertificate asks the server for a client certificate; csr is a request in
// PEM. The certificate comes as an offer. The request is sent once: it is lost
// with a message that is lost, and a refusal is a ServerError that does not say
// what it is about. So the caller asks again until there is an offer. The server
// must be known to take such requests; the protocol cannot tell.
func (s *Session) RequestCertificate(csr []byte) error {
	if len(csr) == 0 {
		return errors.New("requesting a certificate from the OpAMP server: the request is empty")
	}
	request := &protobufs.ConnectionSettingsRequest{Opamp: &protobufs.OpAMPConnectionSettingsRequest{
		CertificateRequest: &protobufs.CertificateRequest{Csr: bytes.Clone(csr)},
	}}
	if err := s.client.RequestConnectionSettings(request); err != nil {
		return fmt.Errorf("requesting a certificate from the OpAMP server: %w", err)
	}
	s.report()
	return nil
}

func (s SettingsStatus) protobuf() *protobufs.ConnectionSettingsStatus {
	if s.State == Unset {
		return nil
	}
	states := map[RemoteConfigState]protobufs.ConnectionSettingsStatuses{
		Applying: protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING,
		Applied:  protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED,
		Failed:   protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED,
	}
	return &protobufs.ConnectionSettingsStatus{
		LastConnectionSettingsHash: bytes.Clone(s.Hash), Status: states[s.State], ErrorMessage: utf8(s.Message),
	}
}

// parts are what all kinds of connection settings have.
type parts interface {
	GetDestinationEndpoint() string
	GetHeaders() *protobufs.Headers
	GetCertificate() *protobufs.TLSCertificate
	GetTls() *protobufs.TLSConnectionSettings
	GetProxy() *protobufs.ProxyConnectionSettings
}

func connectionFrom(p parts) *connsettings.Connection {
	c := &connsettings.Connection{Endpoint: p.GetDestinationEndpoint(), Headers: headersFrom(p.GetHeaders())}
	if m := p.GetCertificate(); m != nil {
		// Its authority is never used as one (specification, TLSCertificate): with it,
		// settings that mean the same would differ.
		c.Certificate = &connsettings.Certificate{Cert: m.GetCert(), Key: m.GetPrivateKey()}
	}
	if m := p.GetTls(); m != nil {
		c.TLS = &connsettings.TLS{
			SystemCAs:          m.GetIncludeSystemCaCertsPool(),
			InsecureSkipVerify: m.GetInsecureSkipVerify(),
			MinVersion:         m.GetMinVersion(),
			MaxVersion:         m.GetMaxVersion(),
			CipherSuites:       m.GetCipherSuites(),
		}
		if ca := m.GetCaPemContents(); ca != "" {
			c.TLS.CA = []byte(ca)
		}
	}
	if m := p.GetProxy(); m != nil {
		c.Proxy = &connsettings.Proxy{URL: m.GetUrl(), ConnectHeaders: headersFrom(m.GetConnectHeaders())}
	}
	return c
}

// headersFrom keeps the order of the values of a key.
func headersFrom(m *protobufs.Headers) http.Header {
	if len(m.GetHeaders()) == 0 {
		return nil
	}
	header := make(http.Header, len(m.GetHeaders()))
	for _, h := range m.GetHeaders() {
		header.Add(h.GetKey(), h.GetValue())
	}
	return header
}

// seconds returns n seconds, or as many as a Duration holds.
func seconds(n uint64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/uint64(time.Second))) * time.Second
}

// ownOf returns the destinations of own telemetry; nil if there is none.
func ownOf(m *types.MessageData) map[connsettings.Signal]connsettings.Connection {
	var own map[connsettings.Signal]connsettings.Connection
	for signal, settings := range map[connsettings.Signal]*protobufs.TelemetryConnectionSettings{
		connsettings.Metrics: m.OwnMetricsConnSettings,
		connsettings.Traces:  m.OwnTracesConnSettings,
		connsettings.Logs:    m.OwnLogsConnSettings,
	} {
		if settings == nil {
			continue
		}
		if own == nil {
			own = map[connsettings.Signal]connsettings.Connection{}
		}
		own[signal] = *connectionFrom(settings)
	}
	return own
}

// othersOf returns the connections by name; nil if none is offered, which the
// protocol cannot tell from an offer of none.
func othersOf(settings map[string]*protobufs.OtherConnectionSettings) map[string]connsettings.Connection {
	if len(settings) == 0 {
		return nil
	}
	others := make(map[string]connsettings.Connection, len(settings))
	for name, m := range settings {
		c := connectionFrom(m)
		c.Other = m.GetOtherSettings()
		others[name] = *c
	}
	return others
}
