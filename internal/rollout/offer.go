package rollout

import (
	"maps"
	"slices"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

func (m *Machine) offered(e Offered) {
	if m.state == Checking && e.Ref == m.checking {
		m.next = nil // the newest offer is being worked on
		return
	}
	if c := m.record.Candidate; c != nil && e.Ref == c.Ref {
		m.next = nil
		return
	}
	if m.state != Idle || !m.ready {
		// A service that is still starting must not be disturbed: a slow start
		// would look like a retiring configuration that does not stop.
		m.next = &e
		return
	}
	m.begin(e)
}

// begin works on an offer. The machine is idle and the service is ready.
func (m *Machine) begin(e Offered) {
	if !m.record.LastKnownGood.IsZero() && e.Ref.Digest == m.record.LastKnownGood.Digest && m.served == m.record.LastKnownGood {
		// It runs already, perhaps under another hash.
		m.record.LastKnownGood, m.served = e.Ref, e.Ref
		m.settleStatus(OutcomeUnchanged, Status{Hash: e.Ref.Hash, State: StatusApplied})
		return
	}
	if j, ok := m.record.rejected(e.Ref, e.Context); ok {
		text := j.Reason
		if j.Context == "" {
			text = m.rolledBack(text)
		}
		m.settleStatus(OutcomeKnownBad, Status{Hash: e.Ref.Hash, State: StatusFailed, Message: text})
		return
	}
	m.checking = e.Ref
	m.become(Checking, e.Ref, "")
	m.report(Status{Hash: e.Ref.Hash, State: StatusApplying})
	m.do(Check{Ref: e.Ref})
}

// settleStatus persists and reports a final status, if it is news.
func (m *Machine) settleStatus(by Outcome, s Status) {
	if m.record.Status == s {
		return
	}
	m.count(by)
	m.record.Status = s
	m.persist(false)
	m.do(Report{Status: s})
}

// idle ends the work on an offer and takes up the newest one that waited.
func (m *Machine) idle(ref remoteconfig.Ref, reason string) {
	m.timer, m.settle = 0, 0
	m.become(Idle, ref, reason)
	m.takeNext()
}

func (m *Machine) takeNext() {
	if e := m.next; e != nil && m.state == Idle && m.ready {
		m.next = nil
		m.begin(*e)
	}
}

func (m *Machine) checked(e Checked) {
	if m.state != Checking || e.Ref != m.checking {
		return
	}
	if !m.ready {
		m.passed = &e // a reload that somebody else asked for is under way
		return
	}
	m.passed = nil
	m.checking = remoteconfig.Ref{}
	switch {
	case m.next != nil:
		m.idle(e.Ref, "superseded by a newer offer")
	case e.Reason != "":
		if !e.Transient {
			m.record.reject(Rejection{Ref: e.Ref, Reason: e.Reason, Context: e.Context})
		}
		by := OutcomeRefused
		if e.Transient {
			by = OutcomeNotSaved
		}
		m.settleStatus(by, Status{Hash: e.Ref.Hash, State: StatusFailed, Message: e.Reason})
		m.idle(e.Ref, e.Reason)
	case m.safe:
		// The local configuration comes back with the candidate: only a
		// process with its own arguments can run it.
		m.record.Candidate = &Candidate{Ref: e.Ref, Phase: PhasePending}
		m.fallen, m.record.Ladder = m.record.Ladder, Ladder{}
		m.become(Applying, e.Ref, "leaving safe mode")
		m.persist(true)
		m.do(Restart{Reason: "leaving safe mode for a new configuration"})
	default:
		m.record.Candidate = &Candidate{Ref: e.Ref, Phase: PhaseTriggered}
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
	ref := m.record.Candidate.Ref
	m.record.Candidate = nil
	m.record.reject(Rejection{Ref: ref, Reason: reason})
	m.record.Status = Status{Hash: ref.Hash, State: StatusFailed, Message: m.rolledBack(reason)}
	m.persist(false)
	for _, e := range between {
		m.do(e)
	}
	m.do(Report{Status: m.record.Status})
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
	ref := m.record.Candidate.Ref
	m.record.Candidate = nil
	if m.safe {
		m.record.Ladder = m.fallen // it stays where it is
	}
	m.count(OutcomeNotSaved)
	text := m.rolledBack(reason)
	m.record.Status = Status{Hash: ref.Hash, State: StatusFailed, Message: text}
	m.persist(false) // once it is possible, so that the next process knows too
	m.do(Report{Status: m.record.Status})
	if m.retrieving {
		m.become(RollingBack, ref, text)
		m.serve()
		return
	}
	m.idle(ref, text)
}
