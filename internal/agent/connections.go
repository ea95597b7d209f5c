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

	"github.com/google/uuid"
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
	// unreadable is why there is a record that cannot be read, and is left alone.
	unreadable error
	// booted: what the record says of values was looked at. SwitchBooted: the switch
	// has been told what it says. Booting: the first session is about to start.
	booted, switchBooted, booting bool
	// attempt numbers the sessions: words of an earlier one are no verdict on what
	// the latest uses.
	attempt uint64
	// certificate is what is to be done about certificates.
	certificate certificatePlan
	// switched and switchedBack count outcomes, for metrics.
	switched, switchedBack uint64
	// described is the instance UID for which the attributes of own telemetry were
	// looked at.
	described uuid.UUID
	// served are the values that the host was given last, checked those of the latest
	// candidate.
	served, checked connsettings.Values
	// verify is the timer that the switch wants for the session that is to start; nil
	// if none.
	verify *connsettings.StartVerifyTimer
	// unusable: what is valid cannot be used in this process.
	unusable bool
	// unsaved: the record on disk is not as it should be.
	unsaved, retrying bool
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
	// Accepts is what was accepted when it came.
	Accepts accepts `json:"accepts,omitzero"`
	// OpAMP and Values say which parts it had.
	OpAMP  bool `json:"opamp,omitempty"`
	Values bool `json:"values,omitempty"`
	// Offered is the part for the OpAMP connection until the switch has it.
	Offered *connsettings.Connection `json:"offered,omitempty"`
	// Wanted is the digest of the values with the newest offer that had some and was
	// not refused; WantedHash is its hash.
	Wanted     string                    `json:"wanted,omitempty"`
	WantedHash string                    `json:"wanted_hash,omitempty"`
	Switch     connsettings.SwitchRecord `json:"switch"`
	// Files are the contents of the files of certificates by name.
	Files map[string][]byte `json:"files,omitempty"`
	// Keys were made here, the latest last: for the certificate in use and for those
	// that were asked for.
	Keys []madeKey `json:"keys,omitempty"`
}

// accepts is which kinds of connections a server may set.
type accepts struct{ OpAMP, Others, Metrics, Traces, Logs bool }

func (a *Agent) accepts() accepts {
	var c session.Capabilities
	a.acceptSettings(&c)
	return accepts{OpAMP: c.OpAMPSettings, Others: c.OtherSettings, Metrics: c.OwnMetrics, Traces: c.OwnTraces, Logs: c.OwnLogs}
}

// more reports whether x has something that y has not.
func (x accepts) more(y accepts) bool {
	return x.OpAMP && !y.OpAMP || x.Others && !y.Others || x.Metrics && !y.Metrics || x.Traces && !y.Traces || x.Logs && !y.Logs
}

// acceptsMore reports whether the newest offer may have parts that were not accepted
// when it came and are now: it is as if it had not come.
func (a *Agent) acceptsMore() bool {
	r := a.connections.record
	return r.Hash != "" && a.accepts().more(r.Accepts)
}

// loadConnections reads the record and restores the files that it knows.
func (a *Agent) loadConnections() {
	c := &a.connections
	record, err := a.store.connections(connectionsName)
	c.record = record
	if lost(err) && !errors.Is(err, fs.ErrNotExist) {
		if former, formerErr := a.store.connections(statedir.PreviousName(connectionsName)); formerErr == nil {
			// Without a key and a certificate the agent might not be let in any more.
			a.log.Load().Warn("The record of what the server offered of connections is damaged; using its previous generation", zap.Error(err))
			for _, note := range a.store.aside(connectionsName, err) {
				a.log.Load().Warn("State folder", zap.String("note", note))
			}
			c.record, err = former, nil
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return
	case lost(err):
		c.record = connectionsRecord{Files: a.foundFiles()}
		a.log.Load().Warn("What the server offered of connections is lost: the local settings are used, and the server will offer it again", zap.Error(err))
		for _, note := range a.store.aside(connectionsName, err) {
			a.log.Load().Warn("State folder", zap.String("note", note))
		}
		return
	default:
		c.record, c.unreadable = connectionsRecord{}, err
		a.log.Load().Error("What the server offered of connections cannot be read: the local settings are used, and no connection settings are accepted", zap.Error(err))
		return
	}
	a.restoreFiles()
}

// connections reads a generation of the record.
func (s *store) connections(name string) (connectionsRecord, error) {
	data, err := s.read(name)
	if err != nil {
		return connectionsRecord{}, err
	}
	var r connectionsRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return connectionsRecord{}, fmt.Errorf("decoding record %q: %w: %w", name, statedir.ErrCorrupt, err)
	}
	return r, nil
}

// restoreFiles writes the files of certificates that are not as the record has them.
func (a *Agent) restoreFiles() {
	if err := a.writeFiles(a.connections.record.Files); err != nil {
		a.log.Load().Error("Restoring the files of certificates", zap.Error(err))
	}
}

// saveConnections makes the record durable.
func (a *Agent) saveConnections() error {
	c := &a.connections
	err := errors.Join(a.storeErr, c.unreadable)
	if err != nil {
		return err
	}
	data, err := json.Marshal(c.record)
	if err != nil {
		return fmt.Errorf("encoding record %q: %w", connectionsName, err)
	}
	if err = a.store.dir.Replace(connectionsName, data); err == nil {
		c.unsaved = false
		return nil
	}
	c.unsaved = true
	if !c.retrying {
		c.retrying = true
		a.after(retrySave, func() {
			c.retrying = false
			if c.unsaved && !a.released {
				_ = a.saveConnections() // a failure is tried again
			}
		})
	}
	return err
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
	// Whatever becomes of it, the status is told at the end: the client has told by
	// itself that the offer is being applied.
	defer a.restateSettings()
	if hash == c.record.Hash && c.record.Refused == "" && !a.acceptsMore() {
		if a.offerOpen() {
			a.offerValues()
		}
		return
	}
	if hash == c.record.Hash && !a.offerOpen() {
		return
	}
	next, err := a.judge(offer)
	if err == nil {
		if err = a.takeRecord(next); err != nil {
			err = folderError{fmt.Errorf("saving the offer: %w", err)}
		}
	}
	if err != nil {
		if _, ok := errors.AsType[folderError](err); ok {
			ctx = "" // it is tried again when it comes again
		}
		a.refuseSettings(hash, ctx, a.scrubber.Text(err.Error()))
		return
	}
	a.note("connection settings offered", remoteconfig.Ref{Hash: hash}, "")
	a.log.Load().Info("The server offers connection settings", zap.String("hash", short(hash)), zap.Bool("opamp", c.record.OpAMP), zap.Bool("values", c.record.Values))
	if c.record.Values {
		a.offerValues()
	}
	a.offerConnection()
	a.pruneFiles()
}

// folderError is a failure of the state folder, which says nothing of an offer.
type folderError struct{ error }

// takeRecord makes an accepted offer durable, and writes its files. With an error
// everything is as it was.
func (a *Agent) takeRecord(next connectionsRecord) error {
	c := &a.connections
	former := c.record
	c.record = next
	err := a.saveConnections()
	if err == nil {
		// A process that ends in between writes them when it starts again.
		if err = a.writeFiles(next.Files); err == nil {
			return nil
		}
	}
	c.record = former
	return errors.Join(err, a.writeFiles(former.Files)) // the record is saved with the refusal
}

// refuseSettings takes note of an offer of which nothing is applied. What the ones
// before asked for goes on.
func (a *Agent) refuseSettings(hash, ctx, reason string) {
	r := &a.connections.record
	r.Hash, r.Context, r.Refused, r.Accepts = hash, ctx, reason, a.accepts()
	r.OpAMP, r.Values, r.Offered = false, false, nil
	a.warn("Saving that offered connection settings were refused", a.saveConnections())
	a.note("connection settings refused", remoteconfig.Ref{Hash: hash}, reason)
}

// offerConnection gives the switch what was offered for the OpAMP connection.
func (a *Agent) offerConnection() {
	r := &a.connections.record
	if r.Offered != nil {
		a.switchStep(connsettings.SwitchOffered{Hash: r.Hash, Connection: *r.Offered})
		r.Offered = nil // it has it, or knows it
	}
}

// judge returns the record with an offer that may be applied. The values with it are
// durable then, and nothing else is changed.
func (a *Agent) judge(offer connsettings.Offer) (connectionsRecord, error) {
	next := a.connections.record
	next.Hash, next.Context, next.Refused = hex.EncodeToString(offer.Hash), a.verdictContext(), ""
	next.Local = a.settings.Connections.Local
	next.Accepts = a.accepts()
	next.OpAMP, next.Values = offer.OpAMP != nil, offer.Own != nil || offer.Others != nil
	if err := a.completeCertificate(&offer); err != nil {
		return next, err
	}
	next.Offered = offer.OpAMP
	if err := offer.Validate(); err != nil {
		return next, err
	}
	base, err := a.baseValues()
	if err != nil {
		return next, folderError{err}
	}
	// Parts of two offers must not come to something that neither could have asked
	// for: what is judged is what would be used.
	if err := a.policy().CheckConnections(merged(offer, base), a.connectionsLocal()); err != nil {
		return next, err
	}
	if !next.Values {
		return next, nil
	}
	var values connsettings.Values
	values, next.Files = a.values(offer, base)
	next.Wanted, next.WantedHash = values.Digest(), next.Hash
	if err := a.judgeOwn(values); err != nil {
		return next, err
	}
	if err := a.saveValues(values); err != nil {
		return next, folderError{fmt.Errorf("saving the offer: %w", err)}
	}
	return next, nil
}

// completeCertificate adds the key that was made here to an offered certificate that
// comes without one.
func (a *Agent) completeCertificate(offer *connsettings.Offer) error {
	if offer.OpAMP == nil || offer.OpAMP.Certificate == nil {
		return nil
	}
	if reason := a.ephemeral(); reason != "" {
		return fmt.Errorf("opamp: certificate: %s", reason)
	}
	if len(offer.OpAMP.Certificate.Key) > 0 {
		return nil
	}
	completed := *offer.OpAMP
	cert := *completed.Certificate
	for _, key := range a.keys() {
		if connsettings.Matches(cert.Cert, key) == nil {
			cert.Key = key
		}
	}
	if len(cert.Key) == 0 {
		return errors.New("opamp: certificate: it comes without a key and belongs to none that was made here: offer the one that was requested last")
	}
	completed.Certificate, offer.OpAMP = &cert, &completed
	return nil
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
	if valid := a.connections.opamp.Record().Valid; valid != nil { // over which it would be merged
		local.InUse = *valid
	}
	return local
}

// inUse returns what the session uses of what was offered; nil for the local
// settings. Who does not accept any more what was accepted gets the local ones.
func (a *Agent) inUse() *connsettings.Connection {
	if !a.settings.Connections.OpAMP || a.supervised || a.connections.unusable && a.connections.opamp.Record().Candidate == nil {
		return nil
	}
	return a.connections.opamp.Use()
}

// ephemeral returns why certificates are not accepted; empty if they are.
func (a *Agent) ephemeral() string {
	const consequence = ": a certificate would be lost with it, and this agent with the certificate"
	switch {
	case a.storeErr != nil || a.connections.unreadable != nil:
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
			a.connections.verify = &e // its time begins with the session
			if a.session != nil {
				a.startVerifyTimer()
			}
		case connsettings.SwitchReport:
			_ = failpoint.Hit("switch.report")
			a.switched(e.Status)
		}
	}
}

// startVerifyTimer starts the time in which a server must answer over the session.
func (a *Agent) startVerifyTimer() {
	e := a.connections.verify
	if e == nil {
		return
	}
	a.connections.verify = nil
	a.after(a.settings.Connections.VerifyTimeout, func() {
		if a.settings.Connections.OpAMP && a.working.Err() == nil { // the next process goes on
			a.switchStep(connsettings.VerifyTimedOut(*e))
		}
	})
}

// switched takes note of what became of offered settings.
func (a *Agent) switched(s connsettings.Status) {
	switch s.State {
	case connsettings.StatusFailed:
		a.connections.switchedBack++
		a.log.Load().Warn("The offered settings of the OpAMP connection are not used", zap.String("hash", short(s.Hash)), zap.String("reason", s.Message))
	case connsettings.StatusApplied:
		a.connections.switched++
		a.connections.unusable = false
		a.log.Load().Info("The offered settings of the OpAMP connection are in use", zap.String("hash", short(s.Hash)))
		a.removeBootstrap()
	case connsettings.StatusApplying:
		a.log.Load().Info("Trying the offered settings of the OpAMP connection", zap.String("hash", short(s.Hash)))
	case connsettings.StatusUnset: // whoever dropped them says so
	}
	if s.State != connsettings.StatusUnset {
		a.note("connection settings of the server: "+string(s.State), remoteconfig.Ref{Hash: s.Hash}, s.Message)
	}
	a.reportSettings()
	a.showState()
	a.publish()
	a.planCertificate()
}

// forgetConnection drops what was offered for the OpAMP connection. The server may
// offer it again, under whatever hash.
func (a *Agent) forgetConnection(why string) {
	r := &a.connections.record
	a.note("connection settings dropped", remoteconfig.Ref{Hash: r.Switch.ValidHash}, why)
	r.Hash, r.Context, r.Refused, r.OpAMP, r.Values, r.Offered = "", "", "", false, false, nil
	r.Switch = connsettings.SwitchRecord{}
	a.warn("Saving that offered connection settings are dropped", a.saveConnections())
	a.switchStep(connsettings.Forget{})
	if a.session != nil && !a.connections.booting {
		// The client would take the same offer for known.
		a.warn("Connecting anew", a.switchSession())
	}
}

// beginSession starts a session; with offered settings that cannot even begin, it
// goes back to those before.
func (a *Agent) beginSession() error {
	if a.working.Err() != nil {
		return nil // the agent is closing, and would not end it
	}
	err := a.startSession()
	if err == nil || a.inUse() == nil {
		return err
	}
	if a.connections.opamp.Record().Candidate != nil {
		a.switchStep(connsettings.Refused{Reason: a.scrubber.Text(err.Error()), Certain: true})
		return nil
	}
	a.log.Load().Error("The settings that the server offered for the OpAMP connection cannot be used: using the local ones in this process", zap.Error(err))
	a.connections.unusable = true
	return a.startSession()
}

// heard and unheard say how the session numbered attempt fares.
func (a *Agent) heard(attempt uint64) {
	if !a.judges(attempt) {
		return
	}
	if a.connections.opamp.Record().Candidate == nil {
		a.removeBootstrap() // a process may have ended before it did
		return
	}
	_ = failpoint.Hit("switch.answered")
	a.switchStep(connsettings.Answered{})
}

func (a *Agent) unheard(attempt uint64, err error) {
	if a.judges(attempt) {
		a.switchStep(connsettings.Refused{Reason: a.scrubber.Text(err.Error()), Certain: session.Certain(err)})
	}
}

// judges reports whether words of the session numbered attempt are about what is in
// use of what was offered.
func (a *Agent) judges(attempt uint64) bool {
	return attempt == a.connections.attempt && a.session != nil && a.inUse() != nil
}

// bootConnections begins with what was in use before, or what an extension allows
// now: called when one has said what is local.
func (a *Agent) bootConnections() {
	c := &a.connections
	set := a.settings.Connections
	c.booting = true // attach connects
	if c.record.Local != "" && c.record.Local != set.Local {
		a.log.Load().Info("The local settings of the OpAMP connection have changed: what the server offered for it is dropped")
		c.record.Local = set.Local
		a.forgetConnection("the local settings of the OpAMP connection have changed")
	}
	if !set.OpAMP {
		c.switchBooted = false // what is in test when it is turned on again needs a timer
	}
	if set.OpAMP && !a.supervised && !c.switchBooted {
		c.switchBooted = true
		a.switchStep(connsettings.SwitchBooted{Record: c.record.Switch})
		a.offerConnection() // the process ended before the switch had it
	}
	c.booting = false
	if c.booted {
		return
	}
	c.booted = true
	if reason := a.ephemeral(); set.Certificate.Request && reason != "" {
		a.log.Load().Warn("No certificate is requested from the OpAMP server", zap.String("reason", reason))
	}
	a.bootValues()
}

// bootValues offers the machine what the former process did not get to.
func (a *Agent) bootValues() {
	r, m := &a.connections.record, a.machine.Record()
	if r.WantedHash == "" && m.Applied.Values == m.LastKnownGood.Values {
		r.Wanted, r.WantedHash = m.Applied.Values, m.Applied.Hash // the record was lost
	}
	if r.WantedHash == "" || r.WantedHash == m.Settings.Hash && m.Settings.State != rollout.StatusUnset {
		return
	}
	if _, err := a.store.values(r.Wanted); lost(err) {
		a.log.Load().Warn("The values that the server offered for connections are lost: it will offer them again", zap.Error(err))
		for _, note := range a.store.aside(bodyName(r.Wanted), err) {
			a.log.Load().Warn("State folder", zap.String("note", note))
		}
		if r.Hash == r.WantedHash {
			r.Hash, r.OpAMP, r.Values = "", false, false
		}
		r.Wanted, r.WantedHash = "", ""
		a.warn("Saving that offered values are lost", a.saveConnections())
		return
	}
	a.offerValues()
}

// connect changes the local settings of a session to those that are in use.
func (a *Agent) connect(set *session.Settings) error {
	use := a.inUse()
	a.connections.certificate.presented = false
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
		a.connections.certificate.presented = use.Certificate != nil
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
	if a.storeErr != nil || a.connections.unreadable != nil || a.supervised {
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
	if err != nil || len(hash) == 0 || a.acceptsMore() {
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
	if r.OpAMP && a.settings.Connections.OpAMP {
		s := a.connections.opamp.Record().Status
		part(s.Hash, string(s.State), s.Message) // which begins with the part
	}
	if r.Values {
		s := a.machine.Record().Settings
		if off := a.valuesOff(); off != "" && s.Hash != r.Hash {
			s = rollout.Status{Hash: r.Hash, State: rollout.StatusFailed, Message: off}
		}
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

// valuesOff returns why values are not worked on; empty if they are.
func (a *Agent) valuesOff() string {
	if a.provider == nil {
		return "no opamp: URI of this name is among --config"
	}
	return ""
}

// reportSettings tells the server about its connection settings, if that is news.
func (a *Agent) reportSettings() {
	s := a.settingsStatus()
	if slices.Equal(s.Hash, a.reported.Settings.Hash) && s.State == a.reported.Settings.State && s.Message == a.reported.Settings.Message {
		return
	}
	a.restateSettings()
}

// offerOpen reports whether the newest offer is to be worked on if it comes again:
// it was refused, or its values failed in a dry run, and what that depended on has
// changed; or they could not be tried for want of something.
func (a *Agent) offerOpen() bool {
	r := a.connections.record
	if a.acceptsMore() {
		return true
	}
	if r.Refused != "" {
		return r.Context != a.verdictContext()
	}
	m := a.machine.Record()
	if !r.Values || m.Settings.Hash != r.Hash || m.Settings.State != rollout.StatusFailed {
		return false
	}
	ctx := a.verdictContext()
	return !slices.ContainsFunc(m.Rejected, func(j rollout.Rejection) bool {
		return j.Settings == r.Hash && j.Ref.Values == r.Wanted && j.Ref.Digest == m.LastKnownGood.Digest && (j.Context == "" || j.Context == ctx)
	})
}

// restateSettings tells the server about its connection settings, also what it should
// know: the client tells of each offer that it is being applied.
func (a *Agent) restateSettings() {
	s, former := a.settingsStatus(), a.reported.Settings
	news := !slices.Equal(s.Hash, former.Hash) || s.State != former.State || s.Message != former.Message
	if news && s.State == session.Failed {
		a.log.Load().Warn("Connection settings failed", zap.String("hash", short(hex.EncodeToString(s.Hash))), zap.String("reason", s.Message))
	}
	a.reported.Settings = s
	if a.session != nil && len(s.Hash) > 0 && a.acceptsAny() {
		a.warn("Reporting the status of connection settings", a.session.SetSettingsStatus(s))
	}
	a.stale = a.stale || news
	a.reportHealth(false)
	a.showState()
	a.publish()
}

// acceptsAny reports whether any connection settings are accepted, without which
// there is no status.
func (a *Agent) acceptsAny() bool {
	var c session.Capabilities
	a.acceptSettings(&c)
	return c != session.Capabilities{}
}

func short(hash string) string { return remoteconfig.Ref{Hash: hash, Digest: hash}.String() }
