package agent

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
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
	if lost(err) {
		switch former, formerErr := a.store.connections(statedir.PreviousName(connectionsName)); {
		case formerErr == nil:
			// Without a key and a certificate the agent might not be let in any more.
			a.log.Load().Warn("The record of what the server offered of connections is damaged or missing; using its previous generation", zap.Error(err))
			for _, note := range a.store.aside(connectionsName, err) {
				a.log.Load().Warn("State folder", zap.String("note", note))
			}
			c.record, err = former, nil
		case !lost(formerErr):
			err = formerErr
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

// acceptsAny reports whether any connection settings are accepted, without which
// there is no status.
func (a *Agent) acceptsAny() bool {
	return a.accepts() != accepts{}
}

func short(hash string) string { return remoteconfig.Ref{Hash: hash, Digest: hash}.String() }
