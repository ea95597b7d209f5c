package rollout

import (
	"maps"
	"slices"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

func (m *Machine) offered(e Offered) {
	if m.worksOn(Candidate{Ref: e.Ref}) {
		m.next = nil // the newest offer is being worked on
		return
	}
	// A service that is still starting must not be disturbed: a slow start would
	// look like a retiring configuration that does not stop.
	m.next = &e
	m.takeNext()
}

func (m *Machine) settingsOffered(e SettingsOffered) {
	if e.Hash == "" {
		return
	}
	if m.worksOn(Candidate{Ref: remoteconfig.Ref{Values: e.Values}, Settings: e.Hash}) {
		m.nextSettings = nil
		return
	}
	m.nextSettings = &e
	m.takeNext()
}

// worksOn reports whether the offer in c, without what it is tried with, is being
// checked or in trial.
func (m *Machine) worksOn(c Candidate) bool {
	is := func(at Candidate) bool {
		if c.Settings != "" {
			return at.Settings == c.Settings && at.Ref.Values == c.Ref.Values
		}
		return at.Settings == "" && at.Ref.Hash == c.Ref.Hash && at.Ref.Digest == c.Ref.Digest
	}
	return m.state == Checking && is(m.checking) || m.record.Candidate != nil && is(*m.record.Candidate)
}

// takeNext takes up what waits, if the machine is idle and the service is ready,
// until there is something to do.
func (m *Machine) takeNext() {
	for m.state == Idle && m.ready {
		switch e, s := m.next, m.nextSettings; {
		case e != nil:
			m.next = nil
			m.begin(*e)
		case s != nil:
			m.nextSettings = nil
			m.beginSettings(*s)
		default:
			return
		}
	}
}

// begin works on a remote configuration, with the values of the last known good.
func (m *Machine) begin(e Offered) {
	lkg := m.record.LastKnownGood
	c := Candidate{Ref: remoteconfig.Ref{Hash: e.Ref.Hash, Digest: e.Ref.Digest, Values: lkg.Values}}
	if lkg.Digest != "" && c.Ref.Digest == lkg.Digest && m.served == lkg {
		// It runs already, perhaps under another hash.
		m.record.LastKnownGood, m.served = c.Ref, c.Ref
		m.settleStatus(OutcomeUnchanged, c, StatusApplied, "")
		return
	}
	m.check(c, e.Context)
}

// beginSettings works on values, with the remote configuration of the last known
// good.
func (m *Machine) beginSettings(e SettingsOffered) {
	lkg := m.record.LastKnownGood
	c := Candidate{Ref: remoteconfig.Ref{Hash: lkg.Hash, Digest: lkg.Digest, Values: e.Values}, Settings: e.Hash}
	if lkg.Values == e.Values && m.served.Values == e.Values {
		// They are in use already. On a lower rung, too, if it has the same: a trial
		// of the last known good would be one of its remote configuration.
		m.record.Applied = AppliedSettings{Hash: e.Hash, Values: e.Values}
		m.settleStatus(OutcomeUnchanged, c, StatusApplied, "")
		return
	}
	m.check(c, e.Context)
}

// check asks for the dry run of c, unless it was rejected before.
func (m *Machine) check(c Candidate, context string) {
	if j, ok := m.record.rejected(c, context); ok {
		text := j.Reason
		if j.Context == "" {
			text = m.rolledBack(text)
		}
		m.settleStatus(OutcomeKnownBad, c, StatusFailed, text)
		return
	}
	m.checking = c
	m.become(Checking, c.Ref, "")
	if s := (Status{Hash: c.Hash(), State: StatusApplying}); *m.record.told(c) != s {
		*m.record.told(c) = s
		m.tell(c)
	}
	m.do(Check{Ref: c.Ref, Settings: c.Settings})
}

// settleStatus persists and reports the final status of an offer, if it is news.
func (m *Machine) settleStatus(by Outcome, c Candidate, state StatusState, text string) {
	s := Status{Hash: c.Hash(), State: state, Message: text}
	if *m.record.told(c) == s {
		return
	}
	m.count(by)
	*m.record.told(c) = s
	m.persist(false)
	m.tell(c)
}

// idle ends the work on an offer and takes up what waited.
func (m *Machine) idle(ref remoteconfig.Ref, reason string) {
	m.timer, m.settle = 0, 0
	m.become(Idle, ref, reason)
	m.takeNext()
}

func (m *Machine) checked(e Checked) {
	if m.state != Checking || e.Ref != m.checking.Ref {
		return
	}
	if !m.ready {
		m.passed = &e // a reload that somebody else asked for is under way
		return
	}
	c := m.checking
	m.passed, m.checking = nil, Candidate{}
	switch {
	case c.Settings == "" && m.next != nil, c.Settings != "" && m.nextSettings != nil:
		m.idle(e.Ref, "superseded by a newer offer")
	case e.Reason != "":
		if !e.Transient {
			m.record.reject(Rejection{Ref: c.Ref, Settings: c.Settings, Reason: e.Reason, Context: e.Context})
		}
		by := OutcomeRefused
		if e.Transient {
			by = OutcomeNotSaved
		}
		m.settleStatus(by, c, StatusFailed, e.Reason)
		m.idle(e.Ref, e.Reason)
	case m.safe:
		// The local configuration comes back with the candidate: only a
		// process with its own arguments can run it.
		c.Phase = PhasePending
		m.record.Candidate = &c
		m.fallen, m.record.Ladder = m.record.Ladder, Ladder{}
		m.become(Applying, e.Ref, "leaving safe mode")
		m.persist(true)
		m.do(Restart{Reason: "leaving safe mode for a new configuration"})
	default:
		c.Phase = PhaseTriggered
		m.record.Candidate = &c
		m.baseline = map[string]bool{}
		for key := range m.failed {
			m.baseline[key] = true
		}
		m.record.Candidate.Baseline = slices.Sorted(maps.Keys(m.baseline))
		m.become(Applying, e.Ref, "")
		m.persist(true)
		m.await(DrainTimer)
		m.do(Trigger{})
	}
}

// reject gives the candidate up after it was triggered and goes back to the
// last known good; how says how the host gets there, if it must be told.
func (m *Machine) reject(by Outcome, reason string, how ...Effect) {
	ref := m.record.Candidate.Ref
	m.verdict(by, reason, how...)
	m.await(DrainTimer)
	m.become(RollingBack, ref, reason)
}

// verdict persists and reports that the candidate failed; between the two it
// does what gets the host back.
func (m *Machine) verdict(by Outcome, reason string, between ...Effect) {
	m.count(by)
	c := *m.record.Candidate
	m.record.Candidate = nil
	m.record.reject(Rejection{Ref: c.Ref, Settings: c.Settings, Reason: reason})
	*m.record.told(c) = Status{Hash: c.Hash(), State: StatusFailed, Message: m.rolledBack(reason)}
	m.persist(false)
	for _, e := range between {
		m.do(e)
	}
	m.tell(c)
}

// rolledBack is the text of a failure after the trigger. Design, section 4,
// point 9: the server must see that the hash it sent failed, and what runs
// instead.
func (m *Machine) rolledBack(reason string) string {
	rung, ref := m.rung()
	text := strings.TrimSpace(reason) + "; running " + string(rung)
	if rung == RungLastKnownGood || rung == RungEarlier {
		text += " " + ref.String()
	}
	return text
}

func (m *Machine) persistFailed(e PersistFailed) {
	if m.record.Candidate != nil {
		m.abandon("saving the state of this rollout: " + e.Reason)
	}
}

// abandon gives up a candidate that cannot be tried safely. It is not remembered
// as rejected: nothing is known about it.
func (m *Machine) abandon(reason string) {
	c := *m.record.Candidate
	m.record.Candidate = nil
	if m.safe {
		m.record.Ladder = m.fallen // it stays where it is
	}
	m.count(OutcomeNotSaved)
	text := m.rolledBack(reason)
	*m.record.told(c) = Status{Hash: c.Hash(), State: StatusFailed, Message: text}
	m.persist(false) // once it is possible, so that the next process knows too
	m.tell(c)
	if m.retrieving {
		m.become(RollingBack, c.Ref, text)
		m.serve()
		return
	}
	m.idle(c.Ref, text)
}
