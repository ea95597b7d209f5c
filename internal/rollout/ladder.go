package rollout

import (
	"slices"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// booted starts from a record. A candidate that the host had been given when
// the process died is rejected; one that it had not, or whose trial was ended
// in order, has its trial now.
//
// A machine that was rebooted takes the process with it, which proves nothing;
// but a configuration that keeps taking the machine with it is no good either.
func (m *Machine) booted(e Booted) {
	m.record, m.bootID, m.safe, m.noSafe = e.Record.clone(), e.BootID, e.SafeMode, e.NoSafeMode
	m.managed = e.Managed
	m.forgetApplying()
	if c := m.record.Candidate; c != nil {
		for _, key := range c.Baseline {
			m.baseline[key] = true
		}
		rebooted := c.BootID != e.BootID
		switch {
		case m.safe && c.Phase == PhasePending:
			// It cannot run here; it does when safe mode is left.
		case (c.Phase == PhasePending || c.Phase == PhaseTriggered) && c.Resumed <= maxResumed:
			m.become(Applying, c.Ref, "resuming after a restart")
		case rebooted && c.Resumed < maxResumed:
			c.Resumed++
			m.become(Applying, c.Ref, "resuming after a reboot of the machine")
		default:
			reason := "the process ended while this configuration was in trial (phase " + string(c.Phase) + ")"
			m.verdict(RolledBackDied, join(reason, c.Evidence, e.Evidence))
		}
		return
	}
	if l := &m.record.Ladder; l.Starting && l.BootID == e.BootID && m.managed {
		l.Starting = false
		m.fall(join("the process ended during its start, or soon after", e.Evidence))
		// The first death is followed by a start at once: unlike a port that is
		// taken, it has nothing that a pause would repair.
		m.atOnce = m.record.Ladder.Failures == 1
	}
}

// forgetApplying clears what a former process said to be applying and is not the
// candidate: it ended during the dry run, or before it began. The server must offer
// it again.
func (m *Machine) forgetApplying() {
	c := m.record.Candidate
	if m.record.Status.State == StatusApplying && (c == nil || c.Settings != "") {
		m.record.Status = Status{}
	}
	if m.record.Settings.State == StatusApplying && (c == nil || c.Settings == "") {
		m.record.Settings = Status{}
	}
}

// maxResumed is how many trials may end with the machine before the
// configuration is suspected of it.
const maxResumed = 2

// join joins what is known of a failure.
func join(reason string, more ...string) string {
	known := slices.DeleteFunc(append([]string{reason}, more...), func(s string) bool { return s == "" })
	return strings.Join(known, "; before that: ")
}

// Rung returns on which rung of the ladder the process is, and what is to run
// there.
func (m *Machine) Rung() (Rung, remoteconfig.Ref) { return m.rung() }

// rung returns what is to run without a candidate. Where there is no safe mode
// the last known good is tried again and again, with pauses.
func (m *Machine) rung() (Rung, remoteconfig.Ref) {
	rung, ref := m.record.rung()
	if rung == RungSafeMode && m.noSafe {
		return RungLastKnownGood, m.record.LastKnownGood
	}
	return rung, ref
}

// fall goes down the ladder by one failed start.
func (m *Machine) fall(reason string) {
	m.record.Ladder.Failures++
	m.record.Ladder.Reason = reason
	// What the server would know by a hash: each part of the last known good may be
	// to blame. What it was told about settings that came later stays.
	failed := m.record.LastKnownGood
	hash := m.record.goodSettings()
	files, values := failed.Digest != "", failed.Values != "" && hash != "" && m.record.Settings.Hash == hash
	if files {
		m.record.Status = Status{Hash: failed.Hash, State: StatusFailed, Message: m.rolledBack(reason)}
	}
	if values {
		m.record.Settings = Status{Hash: hash, State: StatusFailed, Message: m.rolledBack(reason)}
	}
	m.persist(false)
	m.tellBoth(files, values)
}

// evidence takes note of an error that no instance could report.
func (m *Machine) evidence(e Evidence) {
	c := m.record.Candidate
	if c == nil || m.state != Applying || c.Phase == PhaseTriggered || c.Phase == PhasePending {
		return
	}
	if e.Fatal {
		m.reject(RolledBackFatalError, e.Text, Restart{Reason: e.Text})
		return
	}
	if c.Evidence == "" {
		c.Evidence = e.Text
		m.persist(false)
	}
}

// hostEnded decides what the successor of the process runs.
func (m *Machine) hostEnded(e HostEnded) {
	c := m.record.Candidate
	reason := e.Reason
	m.noSafe = e.NoSafeMode
	neverWorked := c == nil && m.record.LastKnownGood.IsZero() && m.generation <= 1 && !m.retired
	if m.noSafe && (e.LocalBroken || neverWorked) {
		// Nothing that this process could become would be any better: it ends
		// with the host's own error, as every Collector does.
		m.stopping(Stopping{})
		return
	}
	m.record.Ladder.Starting = false // the successor is not to count it again
	if c == nil && !e.LocalBroken && !m.ready {
		reason = join(reason, m.seen)
	}
	switch {
	case m.safe:
		// Even safe mode did not start. There is nothing below it, so that it is
		// tried again, with pauses.
		m.record.Ladder.Failures = max(m.record.Ladder.Failures, m.record.bottom()) + 1
		m.record.Ladder.Reason = reason
		m.persist(false)
	case e.LocalBroken && c != nil:
		// Its trial is to come, when what is local is repaired.
		c.Phase = PhasePending
		m.record.Ladder = Ladder{Failures: max(m.record.Ladder.Failures, m.record.bottom()), Reason: reason}
		m.persist(false)
	case e.LocalBroken:
		m.record.Ladder.Failures = max(m.record.Ladder.Failures, m.record.bottom()-1)
		m.fall(reason)
	case c != nil && (c.Phase == PhaseTriggered || c.Phase == PhasePending), m.retired:
		reason = "the retiring configuration did not stop in order: " + reason // no verdict
	case c != nil:
		m.verdict(RolledBackStart, join(reason, c.Evidence))
	default:
		m.fall(reason)
	}
	m.stopped = true
	rung, _ := m.rung()
	m.do(Restart{Reason: reason, SafeMode: rung == RungSafeMode && (m.safe || e.LocalBroken || m.record.Candidate == nil)})
}

// mustGoSafe reports whether only safe mode is left and this process, started by
// somebody else, is not in it.
func (m *Machine) mustGoSafe() bool {
	rung, _ := m.rung()
	return rung == RungSafeMode && m.record.Candidate == nil && !m.safe
}

// lastKnownGoodFailed reports whether the server was told that the remote
// configuration of the last known good failed, which a start that lasts makes untrue.
// Another body under the same hash may have failed, which stays true.
func (m *Machine) lastKnownGoodFailed() bool {
	s, lkg := m.record.Status, m.record.LastKnownGood
	return s.State == StatusFailed && lkg.Digest != "" && s.Hash == lkg.Hash &&
		!slices.ContainsFunc(m.record.Rejected, func(j Rejection) bool {
			return j.Settings == "" && j.Ref.Hash == s.Hash && j.Ref.Digest != lkg.Digest
		})
}

// goodSettingsFailed is the same for the settings that gave the last known good its
// values.
func (m *Machine) goodSettingsFailed() bool {
	s, lkg := m.record.Settings, m.record.LastKnownGood
	return s.State == StatusFailed && s.Hash != "" && s.Hash == m.record.goodSettings() &&
		!slices.ContainsFunc(m.record.Rejected, func(j Rejection) bool {
			return j.Settings == s.Hash && j.Ref.Values != lkg.Values
		})
}

func (m *Machine) stopping(e Stopping) {
	m.stopped = true
	// Somebody takes the process in hand: the next one starts from the top.
	// Unless it was stopped because it did not come up, or ends by itself.
	changed := m.record.Ladder.Starting && !e.NotComingUp && !m.fatal
	if changed {
		m.record.Ladder.Starting = false
	}
	if m.ready && !m.fatal && m.record.Ladder.Failures > 0 {
		m.record.Ladder, changed = Ladder{}, true
	}
	if c := m.record.Candidate; c != nil {
		if e.NotComingUp && (c.Phase == PhaseRetrieved || c.Phase == PhaseStarted) {
			// Whoever stops processes that do not come up must not keep a
			// candidate that never does in trial for ever.
			c.Resumed++
		}
		c.Phase, changed = PhasePending, true
	}
	if changed {
		m.persist(false)
	}
}

// unusable goes down the ladder past what cannot be served. Ladder.Failures grows
// by as many starts as it would have taken to find out.
func (m *Machine) unusable(e Unusable) {
	if m.record.Candidate != nil && m.record.Candidate.Ref == e.Ref {
		m.abandon("it cannot be used: " + e.Reason)
		return
	}
	local := m.record.bottom() - 1 // where nothing has to be read
	l := &m.record.Ladder
	for l.Failures = min(l.Failures, local); l.Failures < local && m.target() == e.Ref; {
		l.Failures++
	}
	l.Failures-- // fall counts one
	m.fall("it cannot be used: " + e.Reason)
	m.serve()
}

// goneBack runs an earlier known good, with its values, because an operator wants
// it. What it replaces is rejected: the server must not undo the operator's decision
// with the next message.
func (m *Machine) goneBack(e GoneBack) {
	former := m.record.LastKnownGood
	if !m.AtRest() || !slices.Contains(m.record.Earlier, e.To) {
		return
	}
	const reason = "an operator of this machine went back to an earlier configuration"
	settings, to := m.record.goodSettings(), e.To
	if to.Digest == former.Digest {
		to.Hash = former.Hash // what the server calls it by now
	}
	m.record.Earlier = slices.DeleteFunc(slices.Clone(m.record.Earlier), func(r remoteconfig.Ref) bool { return r == e.To })
	m.record.LastKnownGood = to
	m.record.Ladder = Ladder{}
	wanted := m.record.goodSettings()
	m.record.Rejected = slices.DeleteFunc(m.record.Rejected, func(j Rejection) bool { // if there was a rejection, the operator knows better
		return j.of(Candidate{Ref: to}) || wanted != "" && j.of(Candidate{Ref: to, Settings: wanted})
	})
	if to.Digest != former.Digest && former.Digest != "" {
		m.record.reject(Rejection{Ref: former, Reason: reason})
	}
	if to.Values != former.Values && settings != "" {
		// With what they would be tried now.
		ref := remoteconfig.Ref{Hash: to.Hash, Digest: to.Digest, Values: former.Values}
		m.record.reject(Rejection{Ref: ref, Settings: settings, Reason: reason})
	}
	m.count(RolledBackOperator)
	files := to.Digest != former.Digest && m.overrule(&m.record.Status, former.Hash, to.Hash, reason)
	values := to.Values != former.Values && m.overrule(&m.record.Settings, settings, wanted, reason)
	m.persist(false)
	m.tellBoth(files, values)
	if m.generation == 0 {
		return // the first Retrieve is still to come
	}
	if m.safe { // the local configuration comes back with it
		m.do(Restart{Reason: reason})
		return
	}
	m.become(RollingBack, to, reason)
	m.await(DrainTimer)
	m.do(Trigger{})
}

// overrule notes in s that an operator did not want what ran under the hash former,
// but what has the hash wanted; either is empty if it is not known. It reports whether
// there is a hash to say it of.
func (m *Machine) overrule(s *Status, former, wanted, reason string) bool {
	hash := s.Hash // what the server sent last, which may have failed before
	if hash == "" {
		hash = former
	}
	if hash == "" {
		return false
	}
	if hash == wanted {
		*s = Status{Hash: hash, State: StatusApplied} // gone back from, and now back to
		return true
	}
	text := reason
	if s.State == StatusFailed && hash != former {
		was, _, _ := strings.Cut(s.Message, "; running ") // it never ran, for a reason of its own
		if text = was; !strings.HasSuffix(was, reason) {
			text += "; then " + reason
		}
	}
	*s = Status{Hash: hash, State: StatusFailed, Message: m.rolledBack(text)}
	return true
}

// forgiven clears the rejections. The status goes back to what runs, and that of
// settings to none, so that the server sees that it may offer again.
func (m *Machine) forgiven() {
	m.record.Rejected = nil
	if m.state != Idle || m.record.Ladder.Failures > 0 {
		m.persist(false)
		return
	}
	files, values := m.record.Status.State == StatusFailed, m.record.Settings.State == StatusFailed
	if files {
		m.record.Status = Status{}
		if lkg := m.record.LastKnownGood; lkg.Digest != "" {
			m.record.Status = Status{Hash: lkg.Hash, State: StatusApplied}
		}
	}
	if values {
		m.record.Settings = Status{}
	}
	m.persist(false)
	m.tellBoth(files, values)
}
