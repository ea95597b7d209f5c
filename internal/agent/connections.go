package agent

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// connectionsName is the record of what the server offered of connections. It
// holds secrets; like all records it is readable by its owner only.
const connectionsName = "connection_settings"

// Connections is what an extension says about offered connections.
type Connections struct {
	// OpAMP, Others and Own are the user's consent, by kind.
	OpAMP, Others bool
	Own           map[connsettings.Signal]bool
	// VerifyTimeout is how long the server may take to answer over a connection
	// with offered settings.
	VerifyTimeout time.Duration
	// Local identifies the local settings of the connection: when it changes, what
	// was offered before is dropped, since an operator wants something else.
	Local string
	// TLS are the local settings for a server with TLS, also where the local
	// endpoint has none; nil for the defaults.
	TLS *tls.Config
	// Authenticated means that an extension authenticates the connection.
	Authenticated bool
	// Certificate says what is done about the client certificate.
	Certificate CertificateSettings
}

// CertificateSettings are about the client certificate of the connection.
type CertificateSettings struct {
	// Request asks the server for certificates.
	Request bool
	// Ephemeral means that the state folder does not last, whatever it looks like.
	Ephemeral bool
	// Bootstrap are files to remove once a certificate of the server is in use.
	Bootstrap []string
}

// connections is what is known of connections that the server offered. It belongs
// to the agent's goroutine.
type connections struct {
	record connectionsRecord
	opamp  *connsettings.Switch
	// booted: the switch has been told what the record says. Booting: it is being
	// told.
	booted, booting bool
	// attempt numbers the sessions: words of an earlier one are no verdict on what
	// the latest uses.
	attempt uint64
	// renewal is nil while nothing is to be done about certificates.
	renewal *time.Timer
	// switched and switchedBack count outcomes, for metrics.
	switched, switchedBack uint64
	// asked counts the requests for a certificate that brought none.
	asked int
	// served are the values that the host was given last.
	served connsettings.Values
}

// connectionsRecord is the durable part.
type connectionsRecord struct {
	// Local is that of [Connections] when the offer came.
	Local string `json:"local,omitempty"`
	// Hash is that of the newest offer, in hexadecimal, and Context what a refusal
	// of it depended on besides.
	Hash    string `json:"hash,omitempty"`
	Context string `json:"context,omitempty"`
	// Refused is why nothing of it was applied; empty if something was.
	Refused string `json:"refused,omitempty"`
	// OpAMP and Values say which parts it had.
	OpAMP  bool `json:"opamp,omitempty"`
	Values bool `json:"values,omitempty"`
	// Offered is the part for the OpAMP connection until the switch has it.
	Offered *connsettings.Connection `json:"offered,omitempty"`
	// Wanted is the digest of the values with it.
	Wanted string                    `json:"wanted,omitempty"`
	Switch connsettings.SwitchRecord `json:"switch"`
	// Files are the contents of the files of certificates by name.
	Files map[string][]byte `json:"files,omitempty"`
	// Keys were made here, the latest last: for the certificate in use and for the
	// one that was asked for.
	Keys [][]byte `json:"keys,omitempty"`
}

// loadConnections reads the record and restores the files that it knows.
func (a *Agent) loadConnections() {
	c := &a.connections
	data, err := a.store.read(connectionsName)
	if err == nil {
		if err = json.Unmarshal(data, &c.record); err != nil {
			err = fmt.Errorf("decoding record %q: %w: %w", connectionsName, statedir.ErrCorrupt, err)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.record = connectionsRecord{}
		a.log.Load().Warn("What the server offered of connections is lost: the local settings are used, and the server will offer it again", zap.Error(err))
		for _, note := range a.store.aside(connectionsName, err) {
			a.log.Load().Warn("State folder", zap.String("note", note))
		}
	}
	if len(c.record.Files) > 0 {
		if err := a.writeFiles(c.record.Files); err != nil {
			a.log.Load().Error("Restoring the files of certificates", zap.Error(err))
		}
	}
}

// saveConnections makes the record durable.
func (a *Agent) saveConnections() error {
	if a.storeErr != nil {
		return a.storeErr
	}
	data, err := json.Marshal(a.connections.record)
	if err != nil {
		return fmt.Errorf("encoding record %q: %w", connectionsName, err)
	}
	return a.store.write(connectionsName, data)
}

// takeSettings hands an offer to the goroutine; called by the client. What waits
// there already is one offer at most: later ones are merged over it, because what an
// offer leaves out stays as the one before said.
func (a *Agent) takeSettings(offer connsettings.Offer) {
	for {
		waiting := a.offeredSettings.Load()
		merged := offer
		if waiting != nil {
			merged = offer.Over(*waiting)
		}
		if a.offeredSettings.CompareAndSwap(waiting, &merged) {
			if waiting == nil {
				a.queue.post(func() { a.settingsOffered(*a.offeredSettings.Swap(nil)) })
			}
			return
		}
	}
}

// settingsOffered takes an offer of connection settings.
func (a *Agent) settingsOffered(offer connsettings.Offer) {
	c := &a.connections
	hash, ctx := hex.EncodeToString(offer.Hash), a.verdictContext()
	if hash == c.record.Hash && !a.offerOpen() {
		a.restateSettings() // the client has told that it is being applied
		return
	}
	former := c.record
	c.record.Hash, c.record.Context, c.record.Refused = hash, ctx, ""
	c.record.Local = a.settings.Connections.Local
	c.record.OpAMP, c.record.Values = offer.OpAMP != nil, offer.Own != nil || offer.Others != nil
	values, err := a.judge(&offer)
	c.record.Offered = offer.OpAMP
	if err == nil && c.record.Values {
		c.record.Wanted = values.Digest()
		err = a.saveValues(values)
	}
	if err != nil {
		c.record = former
		c.record.Hash, c.record.Context, c.record.Refused = hash, ctx, a.scrubber.Text(err.Error())
	}
	if saveErr := a.saveConnections(); saveErr != nil && c.record.Refused == "" {
		c.record = former
		c.record.Hash, c.record.Context, c.record.Refused = hash, "", a.scrubber.Text("saving the offer: "+saveErr.Error()) // tried again when it comes again
	}
	if c.record.Refused != "" {
		a.reportSettings()
		return
	}
	a.note("connection settings offered", remoteconfig.Ref{Hash: hash}, "")
	a.log.Load().Info("The server offers connection settings", zap.String("hash", short(hash)), zap.Bool("opamp", c.record.OpAMP), zap.Bool("values", c.record.Values))
	if c.record.Values {
		a.offerValues()
	}
	a.offerConnection()
	a.reportSettings()
}

// offerConnection gives the switch what was offered for the OpAMP connection.
func (a *Agent) offerConnection() {
	if r := a.connections.record; r.Offered != nil {
		a.switchStep(connsettings.SwitchOffered{Hash: r.Hash, Connection: *r.Offered})
	}
}

// judge returns the values of an offer that may be applied. It completes
// certificates with the key that was made for them.
func (a *Agent) judge(offer *connsettings.Offer) (connsettings.Values, error) {
	c := &a.connections
	if o := offer.OpAMP; o != nil && o.Certificate != nil {
		if reason := a.ephemeral(); reason != "" {
			return connsettings.Values{}, fmt.Errorf("opamp: certificate: %s", reason)
		}
		if len(o.Certificate.Key) == 0 {
			cert := *o.Certificate
			for _, key := range c.record.Keys {
				if connsettings.Matches(cert.Cert, key) == nil {
					cert.Key = key
				}
			}
			if len(cert.Key) == 0 {
				return connsettings.Values{}, errors.New("opamp: certificate: it comes without a key and belongs to none that was made here: offer the one that was requested last")
			}
			completed := *o
			completed.Certificate = &cert
			offer.OpAMP = &completed
		}
	}
	if err := offer.Validate(); err != nil {
		return connsettings.Values{}, err
	}
	if err := a.policy().CheckConnections(*offer, a.connectionsLocal()); err != nil {
		return connsettings.Values{}, err
	}
	if !c.record.Values {
		return connsettings.Values{}, nil
	}
	values, err := a.values(*offer)
	if err != nil {
		return connsettings.Values{}, err
	}
	return values, a.judgeOwn(values)
}

// judgeOwn returns why own telemetry cannot be sent as offered.
func (a *Agent) judgeOwn(v connsettings.Values) error {
	if len(v.Own) == 0 {
		return nil
	}
	if logs, ok := v.Own[connsettings.Logs]; ok && owntelemetry.Loops(logs.Endpoint, owntelemetry.Listening(a.snapshot.Effective)) {
		return fmt.Errorf("%s: endpoint: it is this Collector, whose logs would be about its own logs, without end: name another destination", connsettings.Logs)
	}
	conf := map[string]any{}
	if digest := a.machine.Record().LastKnownGood.Digest; digest != "" {
		offer, err := a.offer(digest)
		if err != nil {
			return err
		}
		if conf, err = offer.Parse(); err != nil {
			return err
		}
	}
	layers := telemetryLayers(conf, a.name, a.args())
	if err := owntelemetry.Check(v, layers); err != nil {
		return err
	}
	return a.policy().CheckLocked(owntelemetry.Overlay(v, a.name, layers))
}

func (a *Agent) connectionsLocal() policy.ConnectionsLocal {
	set := a.settings.Connections
	local := policy.ConnectionsLocal{Endpoint: a.settings.Session.Endpoint, LocalTLS: set.TLS, HasAuth: set.Authenticated}
	if use := a.connections.opamp.Use(); use != nil {
		local.InUse = *use
	}
	return local
}

// ephemeral returns why certificates are not accepted; empty if they are.
func (a *Agent) ephemeral() string {
	const consequence = ": a certificate would be lost with it, and this agent with the certificate"
	switch {
	case a.storeErr != nil:
		return "the state folder cannot be used" + consequence
	case a.settings.Connections.Certificate.Ephemeral:
		return "the state folder does not last (certificate::ephemeral_storage)" + consequence
	default:
		if reason := statedir.Volatile(a.store.dir.Path()); reason != "" {
			return "the state folder does not last: " + reason + consequence
		}
		return ""
	}
}

// switchStep gives the switch of the OpAMP connection an event and performs the
// effects in order.
func (a *Agent) switchStep(event connsettings.SwitchEvent) {
	for _, effect := range a.connections.opamp.Step(event) {
		switch e := effect.(type) {
		case connsettings.SwitchPersist:
			_ = failpoint.Hit("switch.persist")
			a.connections.record.Switch = e.Record
			if s := e.Record; s.Status.Hash == a.connections.record.Hash {
				a.connections.record.Offered = nil
			}
			if err := a.saveConnections(); err != nil {
				a.log.Load().Error("Saving the settings of the OpAMP connection", zap.Error(err))
				if e.Must {
					a.switchStep(connsettings.SwitchPersistFailed{Reason: a.scrubber.Text(err.Error())})
					return
				}
			}
		case connsettings.Connect:
			_ = failpoint.Hit("switch.connect")
			if a.connections.booting {
				continue // the first session is about to start
			}
			if err := a.switchSession(); err != nil {
				a.log.Load().Error("No connection to the OpAMP server", zap.Error(err))
			}
		case connsettings.StartVerifyTimer:
			a.after(a.settings.Connections.VerifyTimeout, func() { a.switchStep(connsettings.VerifyTimedOut(e)) })
		case connsettings.SwitchReport:
			_ = failpoint.Hit("switch.report")
			a.switched(e.Status)
		}
	}
}

// switched takes note of what became of offered settings.
func (a *Agent) switched(s connsettings.Status) {
	a.note("connection settings of the server: "+string(s.State), remoteconfig.Ref{Hash: s.Hash}, s.Message)
	switch s.State {
	case connsettings.StatusFailed:
		a.connections.switchedBack++
		a.log.Load().Warn("The offered settings of the OpAMP connection do not work: back to those that did", zap.String("hash", short(s.Hash)), zap.String("reason", s.Message))
	case connsettings.StatusApplied:
		a.connections.switched++
		a.log.Load().Info("The offered settings of the OpAMP connection are in use", zap.String("hash", short(s.Hash)))
		a.removeBootstrap()
	case connsettings.StatusApplying:
		a.log.Load().Info("Trying the offered settings of the OpAMP connection", zap.String("hash", short(s.Hash)))
	case connsettings.StatusUnset: // forgotten; said by who wanted that
	}
	a.reportSettings()
	a.planCertificate()
}

// beginSession starts a session; with offered settings that cannot even begin, it
// goes back to those before.
func (a *Agent) beginSession() error {
	err := a.startSession()
	if err == nil || a.connections.opamp.Use() == nil {
		return err
	}
	if a.connections.opamp.Record().Candidate != nil {
		a.switchStep(connsettings.Refused{Reason: a.scrubber.Text(err.Error()), Certain: true})
		return nil
	}
	a.log.Load().Error("The settings that the server offered for the OpAMP connection cannot be used any more: using the local ones", zap.Error(err))
	a.switchStep(connsettings.Forget{})
	return nil
}

// heard and unheard say how the session numbered attempt fares.
func (a *Agent) heard(attempt uint64) {
	if attempt == a.connections.attempt && a.session != nil {
		if a.connections.opamp.Record().Candidate != nil {
			_ = failpoint.Hit("switch.answered")
		}
		a.switchStep(connsettings.Answered{})
	}
}

func (a *Agent) unheard(attempt uint64, err error) {
	if attempt == a.connections.attempt && a.session != nil {
		a.switchStep(connsettings.Refused{Reason: a.scrubber.Text(err.Error()), Certain: session.Certain(err)})
	}
}

// bootConnections begins with what was in use before: called once, when the
// extension has said what is local.
func (a *Agent) bootConnections() {
	c := &a.connections
	local := a.settings.Connections.Local
	if c.record.Local != "" && c.record.Local != local {
		a.log.Load().Info("The local settings of the OpAMP connection have changed: what the server offered for it is dropped")
		c.record.Switch, c.record.Hash, c.record.Local = connsettings.SwitchRecord{}, "", local
		if c.booted {
			c.booting = true // attach connects anew
			a.switchStep(connsettings.Forget{})
			c.booting = false
		}
		if err := a.saveConnections(); err != nil {
			a.log.Load().Warn("Saving that offered connection settings are dropped", zap.Error(err))
		}
	}
	if !c.booted {
		c.booted, c.booting = true, true
		if a.settings.Connections.OpAMP {
			a.switchStep(connsettings.SwitchBooted{Record: c.record.Switch})
			a.offerConnection() // the process ended before the switch had it
		}
		c.booting = false
		if s := a.machine.Record().Settings; c.record.Values && c.record.Refused == "" && (s.Hash != c.record.Hash || s.State == rollout.StatusUnset) {
			a.offerValues() // the process ended before they were tried
		}
	}
}

// connect changes the local settings of a session to those that are in use.
func (a *Agent) connect(set *session.Settings) error {
	use := a.connections.opamp.Use()
	if use == nil {
		return nil
	}
	local := a.settings.Connections
	if use.Endpoint != "" {
		set.Endpoint = use.Endpoint
	}
	u, err := url.Parse(set.Endpoint)
	if err != nil {
		return errors.New("opamp: endpoint: it is no URL")
	}
	set.TLS = nil
	switch u.Scheme {
	case "wss", "ws":
		set.Transport = session.WebSocket
	case "http":
		set.Transport = session.HTTP
	case "https":
		if use.Endpoint != "" { // a local https endpoint may be one for WebSocket
			set.Transport = session.HTTP
		}
	}
	if c := use.Certificate; c != nil {
		if end, err := connsettings.NotAfter(c.Cert); err == nil && time.Now().After(end) {
			a.log.Load().Warn("The certificate that the server gave has expired: connecting with the local one, if there is one", zap.Time("expired", end))
			without := *use
			without.Certificate = nil
			use = &without
		}
	}
	if u.Scheme == "wss" || u.Scheme == "https" {
		if set.TLS, err = use.TLSConfig(local.TLS); err != nil {
			return fmt.Errorf("opamp: %w", err)
		}
	}
	set.Header = set.Header.Clone()
	if set.Header == nil {
		set.Header = http.Header{}
	}
	maps.Copy(set.Header, use.Headers)
	if a.policy().MayReplaceAuth() && local.Authenticated {
		authorize := set.Authorize
		set.Authorize = func(r session.Request) (http.Header, error) {
			header, err := authorize(r)
			header = header.Clone()
			for key := range use.Headers {
				header.Del(key)
			}
			return header, err
		}
	}
	set.Proxy = use.Proxy
	if use.Heartbeat > 0 {
		set.HeartbeatInterval = use.Heartbeat
		if set.Transport == session.HTTP {
			set.PollingInterval = use.Heartbeat
		}
	}
	return nil
}

// acceptSettings says which connection settings are accepted.
func (a *Agent) acceptSettings(c *session.Capabilities) {
	if a.storeErr != nil || a.supervised {
		return
	}
	set := a.settings.Connections
	c.OpAMPSettings = set.OpAMP
	if a.provider == nil || a.safe {
		return
	}
	c.OtherSettings = set.Others
	c.OwnMetrics, c.OwnTraces, c.OwnLogs = set.Own[connsettings.Metrics], set.Own[connsettings.Traces], set.Own[connsettings.Logs]
}

// settingsStatus is that of the newest offer: of all its parts together.
func (a *Agent) settingsStatus() session.SettingsStatus {
	r := a.connections.record
	hash, err := hex.DecodeString(r.Hash)
	if err != nil || len(hash) == 0 {
		return session.SettingsStatus{}
	}
	if r.Refused != "" {
		return session.SettingsStatus{Hash: hash, State: session.Failed, Message: r.Refused}
	}
	var failed []string
	pending := false
	part := func(hash, state, message string) {
		switch {
		case hash != r.Hash, state == string(rollout.StatusApplying), state == string(rollout.StatusUnset):
			pending = true
		case state == string(rollout.StatusFailed):
			failed = append(failed, message)
		}
	}
	if r.OpAMP {
		s := a.connections.opamp.Record().Status
		part(s.Hash, string(s.State), s.Message) // which begins with the part
	}
	if r.Values {
		s := a.machine.Record().Settings
		part(s.Hash, string(s.State), "configuration: "+s.Message)
	}
	switch {
	case pending:
		return session.SettingsStatus{Hash: hash, State: session.Applying}
	case len(failed) > 0:
		return session.SettingsStatus{Hash: hash, State: session.Failed, Message: strings.Join(failed, "; ")}
	default:
		return session.SettingsStatus{Hash: hash, State: session.Applied}
	}
}

// reportSettings tells the server about its connection settings, if that is news.
func (a *Agent) reportSettings() {
	s := a.settingsStatus()
	if slices.Equal(s.Hash, a.reported.Settings.Hash) && s.State == a.reported.Settings.State && s.Message == a.reported.Settings.Message {
		return
	}
	a.restateSettings()
}

// offerOpen reports whether the newest offer is to be worked on if it comes again.
func (a *Agent) offerOpen() bool {
	r := a.connections.record
	return r.Refused != "" && r.Context != a.verdictContext()
}

func (a *Agent) restateSettings() {
	s := a.settingsStatus()
	if s.State == session.Failed {
		a.log.Load().Warn("Connection settings failed", zap.String("hash", short(hex.EncodeToString(s.Hash))), zap.String("reason", s.Message))
	}
	a.reported.Settings = s
	if a.session != nil && len(s.Hash) > 0 {
		a.warn("Reporting the status of connection settings", a.session.SetSettingsStatus(s))
	}
	a.stale = true
	a.reportHealth(false)
	a.showState()
	a.publish()
}

func short(hash string) string { return remoteconfig.Ref{Hash: hash, Digest: hash}.String() }
