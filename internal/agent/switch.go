package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// offerConnection gives the switch what was offered for the OpAMP connection.
func (a *Agent) offerConnection() {
	r := &a.connections.record
	if r.Offered != nil {
		a.switchStep(connsettings.SwitchOffered{Hash: r.Hash, Connection: *r.Offered})
		r.Offered = nil // it has it, or knows it
	}
}

// inUse returns what the session uses of what was offered; nil for the local
// settings. Who does not accept any more what was accepted gets the local ones.
func (a *Agent) inUse() *connsettings.Connection {
	if !a.settings.Connections.OpAMP || a.supervised || a.connections.unusable && a.connections.opamp.Record().Candidate == nil {
		return nil
	}
	return a.connections.opamp.Use()
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
