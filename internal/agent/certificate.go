package agent

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

const (
	// firstAsk is the pause before a request for a certificate that brought none is
	// repeated; it doubles up to lastAsk. Requests are lost with a connection, and
	// an authority with a human in it takes its time.
	firstAsk = 5 * time.Second
	lastAsk  = time.Hour
	// askAgain is the part of what is left of a certificate's lifetime after which
	// the request for the next one is repeated.
	askAgain = 4
	// keepKeys is how many keys are kept: of the certificate in use, and of the
	// last two that were asked for, since an answer may be late.
	keepKeys = 3
)

// planCertificate sees to it that there is a certificate of the server for this
// agent, if the user wants that.
func (a *Agent) planCertificate() {
	c := &a.connections
	if c.renewal != nil {
		c.renewal.Stop()
		c.renewal = nil
	}
	if !a.settings.Connections.Certificate.Request || !a.settings.Connections.OpAMP || a.supervised || a.ephemeral() != "" {
		return
	}
	at, reason := a.certificateDue()
	wait := max(0, time.Until(at))
	if reason != "" {
		wait = min(firstAsk<<min(c.asked, 20), lastAsk)
		if c.asked == 0 {
			wait = 0
		}
	} else if c.asked > 0 {
		// Renewal is due and was asked for.
		if left := time.Until(a.certificateEnd()) / askAgain; wait < left {
			wait = max(left, time.Second)
		}
	}
	c.renewal = a.after(wait, func() {
		c.renewal = nil
		if a.session == nil || a.released {
			a.planLater()
			return
		}
		a.requestCertificate(reason)
	})
}

// planLater looks again when there may be a session.
func (a *Agent) planLater() {
	a.connections.renewal = a.after(time.Second, a.planCertificate)
}

// certificateDue returns when the next certificate is to be requested; with a
// reason if there is none that can be used.
func (a *Agent) certificateDue() (time.Time, string) {
	use := a.connections.opamp.Use()
	if use == nil || use.Certificate == nil {
		return time.Time{}, "there is none yet"
	}
	uid, err := a.uid()
	if err == nil {
		if name, err := connsettings.CommonName(use.Certificate.Cert); err == nil && name != uid.String() {
			return time.Time{}, "the instance UID has changed"
		}
	}
	if time.Now().After(a.certificateEnd()) {
		return time.Time{}, "the one in use has expired"
	}
	at, err := connsettings.RenewAt(use.Certificate.Cert, rand.Float64)
	if err != nil {
		return time.Time{}, "the one in use cannot be read"
	}
	return at, ""
}

// certificateEnd returns when the certificate in use expires; the zero time if there
// is none.
func (a *Agent) certificateEnd() time.Time {
	if use := a.connections.opamp.Use(); use != nil && use.Certificate != nil {
		if end, err := connsettings.NotAfter(use.Certificate.Cert); err == nil {
			return end
		}
	}
	return time.Time{}
}

// requestCertificate makes a key and asks the server to certify it. The key is
// durable before the request leaves.
func (a *Agent) requestCertificate(reason string) {
	c := &a.connections
	defer a.planCertificate()
	uid, err := a.uid()
	if err != nil {
		return
	}
	if c.asked == 0 || len(c.record.Keys) == 0 {
		key, err := connsettings.NewKey()
		if err != nil {
			a.log.Load().Error("Making a key for the agent's certificate", zap.Error(err))
			c.asked++
			return
		}
		keys := append(slices.Clone(c.record.Keys), key)
		former := c.record.Keys
		c.record.Keys = keys[max(0, len(keys)-keepKeys):]
		if err := a.saveConnections(); err != nil {
			c.record.Keys = former
			a.log.Load().Error("Saving the key for the agent's certificate: none is requested", zap.Error(err))
			c.asked++
			return
		}
	}
	c.asked++
	csr, err := connsettings.Request(c.record.Keys[len(c.record.Keys)-1], connsettings.Subject{UID: uid.String()})
	if err != nil {
		a.log.Load().Error("Requesting a certificate", zap.Error(err))
		return
	}
	if reason == "" {
		reason = "two thirds of the lifetime of the one in use have passed"
	}
	a.log.Load().Info("Asking the server for a certificate", zap.String("reason", reason), zap.Int("attempt", c.asked))
	a.warn("Asking the server for a certificate", a.session.RequestCertificate(csr))
}

// removeBootstrap forgets the certificate with which the agent came, after one of
// its own has proved itself.
func (a *Agent) removeBootstrap() {
	use := a.connections.opamp.Use()
	if use == nil || use.Certificate == nil {
		return
	}
	a.connections.asked = 0
	for _, path := range a.settings.Connections.Certificate.Bootstrap {
		switch err := os.Remove(path); {
		case err == nil:
			a.log.Load().Info("The bootstrap certificate is removed: the agent has one of its own", zap.String("file", path))
		case !errors.Is(err, fs.ErrNotExist):
			a.log.Load().Warn("Removing the bootstrap certificate (certificate::remove_bootstrap)", zap.Error(err))
		}
	}
}
