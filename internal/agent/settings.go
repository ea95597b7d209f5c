package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

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
