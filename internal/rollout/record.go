package rollout

import (
	"maps"
	"slices"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// Phase says how far the candidate of a [Record] has come. It only grows, but
// for PhasePending, to which a graceful stop returns.
type Phase string

const (
	// PhasePending waits for the next start of the process.
	PhasePending Phase = "pending"
	// PhaseTriggered means that a reload was asked for.
	PhaseTriggered Phase = "triggered"
	// PhaseRetrieved means that the host has been given the candidate.
	PhaseRetrieved Phase = "retrieved"
	// PhaseStarted means that this extension was started by the candidate.
	PhaseStarted Phase = "started"
	// PhaseReady means that every component has started.
	PhaseReady Phase = "ready"
)

// Status is what the server is told about its offers of one kind: remote
// configurations, or values in connection settings.
type Status struct {
	// Hash is the server's hash in hexadecimal; empty if none was received.
	Hash  string      `json:"hash"`
	State StatusState `json:"state"`
	// Message is the reason of a failure, empty otherwise.
	Message string `json:"message,omitempty"`
}

// StatusState is the state part of a [Status].
type StatusState string

// The states of the protocol (specification, RemoteConfigStatus and
// ConnectionSettingsStatus).
const (
	StatusUnset    StatusState = ""
	StatusApplying StatusState = "applying"
	StatusApplied  StatusState = "applied"
	StatusFailed   StatusState = "failed"
)

// Candidate is the configuration in trial.
type Candidate struct {
	// Ref is all that is to run. What the server did not offer in it is that of the
	// last known good.
	Ref remoteconfig.Ref `json:"ref"`
	// Settings is the server's hash of the connection settings, in hexadecimal, if
	// it is their values that are tried; empty if it is a remote configuration.
	Settings string `json:"settings,omitempty"`
	Phase    Phase  `json:"phase"`
	// Evidence is what was seen to go wrong before a verdict could be given;
	// it explains a death of the process to the next one.
	Evidence string `json:"evidence,omitempty"`
	// BootID identifies the boot of the machine in which Phase was reached: a
	// process that died with the machine proves nothing.
	BootID string `json:"boot_id,omitempty"`
	// Resumed counts the trials that ended with the machine, or with somebody
	// stopping a process that did not come up.
	Resumed int `json:"resumed,omitempty"`
	// Baseline are the keys of the components that were in error before: their
	// errors prove nothing.
	Baseline []string `json:"baseline,omitempty"`
}

// Hash returns the server's hash of the offer that is tried.
func (c Candidate) Hash() string {
	if c.Settings != "" {
		return c.Settings
	}
	return c.Ref.Hash
}

// Ladder says how deep the process has fallen because what should run did not
// start. The zero Ladder is the top.
type Ladder struct {
	// Failures counts the starts in a row that failed without a candidate to
	// blame.
	Failures int `json:"failures"`
	// Reason is why the last one failed.
	Reason string `json:"reason,omitempty"`
	// Starting means that a start is under way; it is only read by the next
	// process, which concludes that it was never ready.
	Starting bool `json:"starting,omitempty"`
	// BootID is that of the start under way.
	BootID string `json:"boot_id,omitempty"`
}

// Rung is what a process runs when no candidate is in trial.
type Rung string

// The rungs of the ladder, from the top.
const (
	RungLastKnownGood Rung = "last known good"
	RungEarlier       Rung = "earlier known good"
	RungLocal         Rung = "local configuration only"
	RungSafeMode      Rung = "safe mode"
)

// Record is all that must survive the process. The zero Record is that of an
// agent that never got an offer.
type Record struct {
	// LastKnownGood is zero if neither a remote configuration nor values were ever
	// applied. It may be values alone.
	LastKnownGood remoteconfig.Ref `json:"last_known_good"`
	// Earlier are former last known goods, the latest first.
	Earlier []remoteconfig.Ref `json:"earlier,omitempty"`
	// Candidate is nil if none is in trial.
	Candidate *Candidate `json:"candidate,omitempty"`
	// Ladder is the zero value but after failed starts.
	Ladder Ladder `json:"ladder,omitzero"`
	// Rejected are the latest rejections of both kinds, the latest first.
	Rejected []Rejection `json:"rejected,omitempty"`
	// Status is what the server was told last about the remote configuration.
	Status Status `json:"status"`
	// Settings is what the server was told last about the values in its connection
	// settings.
	Settings Status `json:"settings,omitzero"`
	// Applied are the connection settings whose values were applied last.
	Applied AppliedSettings `json:"applied_settings,omitzero"`
	// Counts are how often offers of both kinds together had each outcome, since the
	// folder was made: most rollbacks end the process that counts them.
	Counts map[Outcome]uint64 `json:"counts,omitempty"`
}

// AppliedSettings are connection settings whose values became part of a last known
// good.
type AppliedSettings struct {
	// Hash is the server's in hexadecimal.
	Hash string `json:"hash"`
	// Values is the digest of the values.
	Values string `json:"values,omitempty"`
}

// Outcome is what became of an offer, and why.
type Outcome string

// The outcomes. Those of configurations that were rolled back say by what they
// failed.
const (
	OutcomeApplied   Outcome = "applied"
	OutcomeUnchanged Outcome = "unchanged" // it ran already, perhaps under another hash
	OutcomeRefused   Outcome = "refused"   // by the dry run, or before it
	OutcomeKnownBad  Outcome = "known bad" // it was rejected before
	OutcomeNotSaved  Outcome = "not saved" // the disk

	RolledBackPermanentError Outcome = "rolled back: permanent error"
	RolledBackFatalError     Outcome = "rolled back: fatal error"
	RolledBackStart          Outcome = "rolled back: start"
	RolledBackHang           Outcome = "rolled back: hang"
	RolledBackDied           Outcome = "rolled back: died"
	RolledBackPartialReload  Outcome = "rolled back: partial reload"
	RolledBackOperator       Outcome = "rolled back: operator"
)

// triesPerRung is how often the last known good is started before the process
// goes down: once more after a pause, since ports and backends come back.
const triesPerRung = 2

// rung returns where the failures lead, and the configuration there.
func (r *Record) rung() (Rung, remoteconfig.Ref) {
	down := r.Ladder.Failures - triesPerRung
	switch {
	case down < 0:
		return RungLastKnownGood, r.LastKnownGood
	case !r.LastKnownGood.IsZero() && down < len(r.ladderEarlier()):
		return RungEarlier, r.Earlier[down]
	}
	down -= len(r.ladderEarlier())
	if !r.LastKnownGood.IsZero() && down == 0 {
		return RungLocal, remoteconfig.Ref{}
	}
	return RungSafeMode, remoteconfig.Ref{}
}

// bottom returns the number of failures that lead to safe mode.
func (r *Record) bottom() int {
	if r.LastKnownGood.IsZero() {
		return triesPerRung
	}
	return triesPerRung + len(r.ladderEarlier()) + 1
}

// ladderEarlier are the earlier known goods that are tried: one, so that the
// whole ladder is gone down in the five starts that systemd allows.
func (r *Record) ladderEarlier() []remoteconfig.Ref { return r.Earlier[:min(len(r.Earlier), 1)] }

// Rejection is an offer that is not tried again by itself.
type Rejection struct {
	// Ref is what was tried. A remote configuration is rejected with any values:
	// only Hash and Digest count. Values are rejected with the remote configuration
	// with which they were tried: Settings, Values and Digest count.
	Ref remoteconfig.Ref `json:"ref"`
	// Settings is as in [Candidate].
	Settings string `json:"settings,omitempty"`
	// Reason is why.
	Reason string `json:"reason"`
	// Context, if not empty, is what the verdict depended on besides the
	// configuration: it holds only as long as the context is the same. Empty
	// for failures after the trigger, which hold for ever.
	Context string `json:"context,omitempty"`
}

const (
	// keepEarlier is how many former last known goods are kept to fall back
	// to (issue "no configuration can take the Collector away").
	keepEarlier = 5
	// keepRejected bounds the record: more rejected offers, of both kinds together,
	// than this between two good ones are not a pattern worth remembering.
	keepRejected = 32
)

// clone returns a copy that shares nothing that Step changes.
func (r Record) clone() Record {
	if r.Candidate != nil {
		c := *r.Candidate
		c.Baseline = slices.Clone(c.Baseline)
		r.Candidate = &c
	}
	r.Earlier = slices.Clone(r.Earlier)
	r.Rejected = slices.Clone(r.Rejected)
	r.Counts = maps.Clone(r.Counts)
	return r
}

// Digests returns the digests of all that the record needs: bodies of remote
// configurations, and values. Both are named by their digests, and no digest is of
// one of each.
func (r Record) Digests() []string {
	var digests []string
	add := func(ref remoteconfig.Ref) { digests = addDigests(digests, ref.Digest, ref.Values) }
	if r.Candidate != nil {
		add(r.Candidate.Ref)
	}
	add(r.LastKnownGood)
	for _, ref := range r.Earlier {
		add(ref)
	}
	return digests
}

// addDigests adds those of more that are not in digests and name something.
func addDigests(digests []string, more ...string) []string {
	for _, digest := range more {
		if digest != "" && !slices.Contains(digests, digest) {
			digests = append(digests, digest)
		}
	}
	return digests
}

// same reports whether the same files and values run with both.
func same(a, b remoteconfig.Ref) bool { return a.Digest == b.Digest && a.Values == b.Values }

// told returns what the server was told last about offers of the kind of c.
func (r *Record) told(c Candidate) *Status {
	if c.Settings != "" {
		return &r.Settings
	}
	return &r.Status
}

// goodSettings returns the hash of the connection settings that gave the last known
// good its values; empty if that is not known.
func (r *Record) goodSettings() string {
	if r.Applied.Values != r.LastKnownGood.Values {
		return ""
	}
	return r.Applied.Hash
}

// Serves returns what a process that reads the record without taking part
// (validate, print-config) must be given: what runs, or is about to run.
// NoSafeMode is as in [Booted].
func (r Record) Serves(noSafeMode bool) remoteconfig.Ref {
	if r.Candidate != nil {
		return r.Candidate.Ref
	}
	_, ref := (&Machine{record: r, noSafe: noSafeMode}).rung()
	return ref
}

func (r *Record) promote() {
	c := *r.Candidate
	r.Ladder = Ladder{}
	if !same(c.Ref, r.LastKnownGood) {
		r.Earlier = slices.DeleteFunc(r.Earlier, func(e remoteconfig.Ref) bool { return same(e, c.Ref) })
		if !r.LastKnownGood.IsZero() {
			r.Earlier = slices.Insert(r.Earlier, 0, r.LastKnownGood)
		}
		r.Earlier = r.Earlier[:min(len(r.Earlier), keepEarlier)]
	}
	r.LastKnownGood = c.Ref
	if c.Settings != "" {
		r.Applied = AppliedSettings{Hash: c.Settings, Values: c.Ref.Values}
	}
	r.Rejected = slices.DeleteFunc(r.Rejected, func(j Rejection) bool { return j.of(c) })
	r.Candidate = nil
}

// Abandon rejects the candidate, which there must be, for ever: it must not be
// run, and its trial cannot be concluded in any other way.
func (r *Record) Abandon(reason string) {
	c := *r.Candidate
	r.Candidate = nil
	r.reject(Rejection{Ref: c.Ref, Settings: c.Settings, Reason: reason})
	rung, ref := r.rung()
	text := reason + "; running " + string(rung)
	if rung == RungLastKnownGood || rung == RungEarlier {
		text += " " + ref.String()
	}
	*r.told(c) = Status{Hash: c.Hash(), State: StatusFailed, Message: text}
}

// of reports whether j is the rejection of the offer that c tries.
func (j Rejection) of(c Candidate) bool {
	if j.Settings != c.Settings || j.Ref.Digest != c.Ref.Digest {
		return false
	}
	if c.Settings != "" {
		return j.Ref.Values == c.Ref.Values
	}
	return j.Ref.Hash == c.Ref.Hash
}

func (r *Record) reject(j Rejection) {
	former := Candidate{Ref: j.Ref, Settings: j.Settings}
	r.Rejected = slices.DeleteFunc(r.Rejected, func(e Rejection) bool { return e.of(former) })
	r.Rejected = slices.Insert(r.Rejected, 0, j)
	r.Rejected = r.Rejected[:min(len(r.Rejected), keepRejected)]
}

// rejected returns the rejection of c that holds in context, if any.
func (r *Record) rejected(c Candidate, context string) (Rejection, bool) {
	for _, j := range r.Rejected {
		if j.of(c) && (j.Context == "" || j.Context == context) {
			return j, true
		}
	}
	return Rejection{}, false
}
