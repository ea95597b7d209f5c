package agent

import (
	"bytes"
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
	// leastAsk is the time between two requests at least, whatever a server sends.
	leastAsk = time.Second
	// askAgain is the part of what is left of a certificate's lifetime after which
	// the request for the next one is repeated, and before which none is made: a
	// server may issue certificates that are old when they come.
	askAgain = 4
	// keepKeys is how many keys are kept besides that of the certificate in use:
	// those of the last two requests, since an answer may be late.
	keepKeys = 2
)

// madeKey is a private key that was made here.
type madeKey struct {
	Key []byte `json:"key"` // PEM
	// UID is the instance UID for which a certificate was requested with it.
	UID string `json:"uid"`
}

// certificatePlan is what is to be done about this agent's certificate. It belongs to
// the agent's goroutine.
type certificatePlan struct {
	// planned numbers the plans: a timer of an earlier one does nothing.
	planned uint64
	timer   *time.Timer
	// about is what was asked for, and why; asked counts the requests for it, and
	// askedAt is when the latest was made.
	about   string
	asked   int
	askedAt time.Time
	// cert is the certificate in use, which came at the time came; zero if a former
	// process got it.
	cert []byte
	came time.Time
	// presented: the session uses it.
	presented bool
}

// planCertificate sees to it that there is a certificate of the server for this
// agent, if the user wants that.
func (a *Agent) planCertificate() {
	c := &a.connections.certificate
	c.planned++
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if a.certificateExpired() && c.presented && a.session != nil {
		// The server would refuse it; what is local may let the agent in.
		a.log.Load().Warn("The certificate that the server gave has expired: connecting without it")
		c.presented = false
		a.warn("Connecting without the certificate", a.switchSession()) // which plans
		return
	}
	if !a.settings.Connections.Certificate.Request || !a.settings.Connections.OpAMP || a.supervised || a.ephemeral() != "" {
		if plan := c.planned; c.presented {
			c.timer = a.after(time.Until(a.certificateEnd())+time.Millisecond, func() {
				if plan == c.planned && !a.released {
					a.planCertificate()
				}
			})
		}
		return
	}
	if candidate := a.connections.opamp.Record().Candidate; candidate != nil && candidate.Certificate != nil {
		return // the verdict on it plans
	}
	at, reason := a.certificateDue()
	a.planAbout(reason)
	var wait time.Duration
	left := time.Until(a.certificateEnd()) / askAgain
	switch {
	case c.asked > 0 && reason != "":
		wait = min(firstAsk<<min(c.asked-1, 20), lastAsk)
	case c.asked > 0:
		wait = left
	case reason == "":
		wait = time.Until(at)
		if !c.came.IsZero() {
			wait = max(wait, a.certificateEnd().Sub(c.came)/askAgain-time.Since(c.came))
		}
	}
	if !c.askedAt.IsZero() {
		wait = max(wait, leastAsk-time.Since(c.askedAt))
	}
	a.planAt(max(0, wait), reason)
}

// planAt requests a certificate, or looks again, after a while.
func (a *Agent) planAt(wait time.Duration, reason string) {
	c := &a.connections.certificate
	plan := c.planned
	c.timer = a.after(wait, func() {
		switch {
		case plan != c.planned || a.released || a.working.Err() != nil:
		case a.session == nil: // there may be one soon
			a.planAt(leastAsk, reason)
		default:
			a.requestCertificate(reason)
		}
	})
}

// planAbout begins anew if it is about another certificate, or for another reason.
func (a *Agent) planAbout(reason string) {
	c := &a.connections.certificate
	var cert []byte
	if use := a.inUse(); use != nil && use.Certificate != nil {
		cert = use.Certificate.Cert
	}
	uid, _ := a.uid() // said when the session was started
	about := uid.String() + " " + reason + " " + string(cert)
	if about == c.about {
		return
	}
	if c.about != "" && !bytes.Equal(cert, c.cert) {
		c.came = time.Now()
	}
	c.about, c.cert, c.asked = about, cert, 0
}

// certificateDue returns when the next certificate is to be requested; with a
// reason if there is none that can be used.
func (a *Agent) certificateDue() (time.Time, string) {
	use := a.inUse()
	if use == nil || use.Certificate == nil {
		return time.Time{}, "there is none yet"
	}
	if uid, err := a.uid(); err == nil {
		// What a server calls the agent in it is its own affair: what counts is for
		// whom it was requested.
		for _, made := range a.connections.record.Keys {
			if bytes.Equal(made.Key, use.Certificate.Key) && made.UID != uid.String() {
				return time.Time{}, "the instance UID has changed"
			}
		}
	}
	if a.certificateExpired() {
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
	if use := a.inUse(); use != nil && use.Certificate != nil {
		if end, err := connsettings.NotAfter(use.Certificate.Cert); err == nil {
			return end
		}
	}
	return time.Time{}
}

func (a *Agent) certificateExpired() bool {
	end := a.certificateEnd()
	return !end.IsZero() && time.Now().After(end)
}

// keys are all private keys that were made here and are known.
func (a *Agent) keys() [][]byte {
	keys := a.usedKeys() // a certificate may be offered once more, with other parts
	for _, made := range a.connections.record.Keys {
		keys = append(keys, made.Key)
	}
	return keys
}

// usedKeys are those of the certificates that are used, or may be.
func (a *Agent) usedKeys() [][]byte {
	var keys [][]byte
	record := a.connections.opamp.Record()
	for _, c := range []*connsettings.Connection{record.Valid, record.Candidate} {
		if c != nil && c.Certificate != nil {
			keys = append(keys, c.Certificate.Key)
		}
	}
	return keys
}

// addKey makes a key for a certificate of uid durable.
func (a *Agent) addKey(uid string) error {
	r := &a.connections.record
	key, err := connsettings.NewKey()
	if err != nil {
		return err
	}
	used := a.usedKeys()
	former := r.Keys
	r.Keys = nil
	for i, made := range former {
		if i > len(former)-keepKeys || slices.ContainsFunc(used, func(k []byte) bool { return bytes.Equal(k, made.Key) }) {
			r.Keys = append(r.Keys, made)
		}
	}
	r.Keys = append(r.Keys, madeKey{Key: key, UID: uid})
	if err := a.saveConnections(); err != nil {
		r.Keys = former
		return err
	}
	return nil
}

// requestCertificate makes a key and asks the server to certify it. The key is
// durable before the request leaves.
func (a *Agent) requestCertificate(reason string) {
	c := &a.connections.certificate
	defer a.planCertificate()
	uid, err := a.uid()
	c.askedAt = time.Now()
	c.asked++
	if err != nil {
		return
	}
	if keys := a.connections.record.Keys; c.asked == 1 || len(keys) == 0 || keys[len(keys)-1].UID != uid.String() {
		if err := a.addKey(uid.String()); err != nil {
			a.log.Load().Error("Making a key for the agent's certificate: none is requested", zap.Error(err))
			c.asked = 0
			c.askedAt = c.askedAt.Add(firstAsk) // a disk that is full is not better at once
			return
		}
	}
	keys := a.connections.record.Keys
	csr, err := connsettings.Request(keys[len(keys)-1].Key, uid.String())
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
	if a.connections.unsaved {
		return // until the certificate is durable there is nothing else
	}
	if !a.connections.certificate.presented || a.connections.opamp.Record().Candidate != nil {
		return
	}
	for _, path := range a.settings.Connections.Certificate.Bootstrap {
		switch err := os.Remove(path); {
		case err == nil:
			a.log.Load().Info("The bootstrap certificate is removed: the agent has one of its own", zap.String("file", path))
		case !errors.Is(err, fs.ErrNotExist):
			a.log.Load().Warn("Removing the bootstrap certificate (certificate::remove_bootstrap)", zap.Error(err))
		}
	}
}
