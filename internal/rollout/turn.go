package rollout

import (
	"maps"
	"slices"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// target is what the host must be given.
func (m *Machine) target() remoteconfig.Ref {
	if m.record.Candidate != nil && !m.safe {
		return m.record.Candidate.Ref
	}
	_, ref := m.rung()
	return ref
}

func (m *Machine) retrieve(e Retrieve) {
	m.retrieving = true
	m.managed = e.Managed
	m.partial = e.Partial && m.ready
	m.touched, m.settled, m.seen = false, false, ""
	clear(m.busy)
	if !m.partial {
		m.ready = false
		clear(m.failed)
	}
	m.retired = false
	// A service that was asked to reload has come up.
	cameUp := m.generation > 0 && m.record.Ladder.Starting
	if cameUp {
		m.record.Ladder.Starting, m.stable = false, 0
	}
	switch c := m.record.Candidate; {
	case c != nil && !m.safe:
		m.become(Applying, c.Ref, "")
		c.Phase, c.BootID = PhaseRetrieved, m.bootID
		m.persist(true)
	case c == nil && m.generation == 0 && m.managed && !m.mustGoSafe():
		m.starting()
	case cameUp:
		m.persist(false)
	}
	m.serve()
	if m.mustGoSafe() {
		m.do(Restart{Reason: "nothing starts: " + m.record.Ladder.Reason, SafeMode: true})
	}
}

func (m *Machine) serve() {
	m.generation++
	m.served = m.target()
	rung, _ := m.rung()
	failures := m.record.Ladder.Failures
	if m.generation > 1 || m.atOnce || m.record.Candidate != nil && !m.safe {
		failures = 0 // no start of a process, or one that is not to blame
	}
	if m.safe {
		failures = max(0, failures-m.record.bottom()) // those of safe mode itself
	}
	m.do(Serve{Generation: m.generation, Ref: m.served, Rung: rung, Failures: failures})
	m.timer = 0
	if m.managed && !m.partial || m.state == Applying || m.state == RollingBack {
		m.await(ApplyTimer)
	}
	if m.partial {
		m.settle = m.startTimer(SettleTimer)
	}
}

// starting takes note that a process starts what nobody watches: the next one
// knows that it died of it.
func (m *Machine) starting() {
	m.record.Ladder.Starting, m.record.Ladder.BootID = true, m.bootID
	m.persist(false)
}

func (m *Machine) started() {
	m.instance = m.generation
	m.partial = false
	if !m.managed {
		m.managed = true
		if m.record.Candidate == nil {
			m.starting()
		}
		m.await(ApplyTimer)
	}
	if c := m.record.Candidate; c != nil && m.state == Applying {
		// Not persisted: to the next process it is as good as retrieved, and the host
		// waits for this.
		c.Phase = PhaseStarted
	}
}

func (m *Machine) becomeReady(e Ready) {
	if e.Generation != m.generation || e.Generation != m.instance {
		return
	}
	m.ready = true
	m.partial = false
	m.settle = 0
	if m.record.Ladder.Starting && m.stable == 0 && m.record.Candidate == nil {
		m.stable = m.startTimer(StableTimer)
	}
	switch m.state {
	case Applying:
		m.record.Candidate.Phase = PhaseReady
		if reason, ok := m.unhealthy(); ok {
			m.reject(RolledBackPermanentError, reason, Trigger{})
			return
		}
		m.become(Trial, m.record.Candidate.Ref, "")
		m.persist(false)
		m.await(TrialTimer)
	case RollingBack:
		if m.served != m.target() {
			// The rejected candidate came up after all, too late.
			m.await(DrainTimer)
			m.do(Trigger{})
			return
		}
		m.idle(m.served, "last known good runs again")
	case Idle:
		m.timer = 0
		m.takeNext()
	case Checking:
		m.timer = 0
		if m.passed != nil {
			m.checked(*m.passed)
		}
	case Trial:
	}
}

// unhealthy returns why the candidate must be given up, if it must.
func (m *Machine) unhealthy() (string, bool) {
	for _, key := range slices.Sorted(maps.Keys(m.failed)) {
		if !m.baseline[key] {
			return m.failed[key], true
		}
	}
	return "", false
}

func (m *Machine) notReady(e NotReady) {
	if e.Generation != m.instance {
		return
	}
	// A service that never was ready is no retiring one: the host stops what it
	// could not start, too.
	// Nor is one that ends at once.
	wasReady := m.ready
	m.retired = m.ready && m.stable == 0
	m.ready = false
	switch {
	case m.state == Trial:
		// Somebody asked for a reload. The trial begins again with it, and a
		// service that hangs or dies while it stops is no verdict.
		m.record.Candidate.Phase = PhaseTriggered
		m.persist(false)
		m.become(Applying, m.record.Candidate.Ref, "reloading during the trial")
		m.await(DrainTimer)
	case wasReady && (m.state == Idle || m.state == Checking):
		// The same without a candidate.
		m.await(DrainTimer)
	}
	if !m.partial {
		return
	}
	// The host gives the partial reload up. If it had begun one, the
	// candidate failed in it, and the full reload that follows is the
	// rollback; if not, the change needs a full reload, which is no verdict.
	m.partial = false
	m.settle = 0
	if !m.touched && m.state == Applying {
		// The host has only compared: the retiring service stops now, and the
		// candidate is retrieved once more.
		m.record.Candidate.Phase = PhaseTriggered
		m.persist(false)
		m.await(DrainTimer)
	}
	if m.touched && m.state == Applying {
		reason, ok := m.unhealthy()
		if !ok {
			reason = "the Collector could not exchange its receivers in place"
		}
		m.reject(RolledBackPartialReload, reason) // the host reloads by itself
	}
}

func (m *Machine) componentStatus(e ComponentStatus) {
	if e.Generation != m.instance || (m.instance != m.generation && !m.partial) {
		return
	}
	wasBusy := len(m.busy) > 0
	switch e.State {
	case ComponentPermanent, ComponentFatal:
		m.failed[e.Key] = e.Component + ": " + e.Err
		delete(m.busy, e.Component)
	case ComponentStarting, ComponentStopping:
		delete(m.failed, e.Key)
		m.busy[e.Component] = true
		m.touched = true
	case ComponentRunning, ComponentStopped:
		delete(m.failed, e.Key)
		delete(m.busy, e.Component)
	}
	m.exchanging(wasBusy)
	reason, bad := m.unhealthy()
	c := m.record.Candidate
	if bad && m.seen == "" {
		m.seen = reason
	}
	m.fatal = m.fatal || e.State == ComponentFatal
	switch {
	case bad && e.State == ComponentFatal && c == nil && !m.ready && !m.retired:
		// The same deadlock, with nobody to blame but what should run.
		m.fall(reason)
		m.do(Restart{Reason: reason, SafeMode: m.mustGoSafe()})
	case !bad:
	case m.state == Applying && c.Phase == PhaseTriggered:
		// It is the retiring service that fails.
	case m.state == Applying && e.State == ComponentFatal:
		// The host is stuck on its own status lock (core issue 12495).
		m.reject(RolledBackFatalError, reason, Restart{Reason: reason})
	case m.state == Applying && c.Evidence == "":
		c.Evidence = reason
		m.persist(false)
	case m.state == Trial && e.State == ComponentFatal:
		// The host ends by itself, unless it deadlocks.
		m.reject(RolledBackFatalError, reason)
		m.await(FatalTimer)
	case m.state == Trial:
		m.reject(RolledBackPermanentError, reason, Trigger{})
	}
	m.trySettle()
}

// exchanging follows a partial reload that has begun: no full one comes any more,
// unless it fails. What is left is to wait for the last component.
func (m *Machine) exchanging(wasBusy bool) {
	switch busy := len(m.busy) > 0; {
	case !m.partial || busy == wasBusy:
	case busy:
		m.settle, m.settled = 0, false
	default:
		m.settle = m.startTimer(QuietTimer)
	}
}

// trySettle takes a partial reload for done when the host has had time to
// begin a full one, or the next component's turn, and none is being exchanged.
func (m *Machine) trySettle() {
	if !m.partial || !m.settled || len(m.busy) > 0 {
		return
	}
	m.instance = m.generation
	m.becomeReady(Ready{Generation: m.generation})
}

func (m *Machine) timerFired(e TimerFired) {
	switch e.ID {
	case 0:
	case m.stable:
		m.stable = 0
		m.lasted()
	case m.settle:
		m.settle, m.settled = 0, true
		m.trySettle()
	case m.timer:
		m.timer = 0
		m.timeout()
	}
}

func (m *Machine) timeout() {
	switch m.state {
	case Trial:
		applied := *m.record.Candidate
		m.record.promote()
		m.stable = 0
		m.count(OutcomeApplied)
		*m.record.told(applied) = Status{Hash: applied.Hash(), State: StatusApplied}
		more := m.vindicate()
		m.persist(false)
		m.tell(applied)
		more()
		m.idle(applied.Ref, "healthy for the whole trial")
	case Applying:
		if m.record.Candidate.Phase == PhaseTriggered {
			m.do(Restart{Reason: "the retiring configuration did not stop within drain_timeout"})
			return
		}
		reason := "it was not ready within apply_timeout"
		if m.record.Candidate.Evidence != "" {
			reason += "; before that: " + m.record.Candidate.Evidence
		}
		m.reject(RolledBackHang, reason, Restart{Reason: reason})
	case RollingBack:
		reasons := map[Timer]string{
			DrainTimer: "the rejected configuration did not stop within drain_timeout",
			ApplyTimer: "the last known good was not ready within apply_timeout",
			FatalTimer: "the Collector did not end after a FatalError",
		}
		m.do(Restart{Reason: reasons[m.awaiting]})
	case Idle, Checking:
		switch {
		case m.awaiting == DrainTimer:
			m.do(Restart{Reason: "the retiring service did not stop within drain_timeout"})
		case !m.ready:
			reason := "it was not ready within apply_timeout"
			if evidence, ok := m.unhealthy(); ok {
				reason = join(reason, evidence)
			}
			m.record.Ladder.Starting = false // the successor is not to count it again
			m.fall(reason)
			m.do(Restart{Reason: reason, SafeMode: m.mustGoSafe()})
		}
	}
}

// lasted counts the start of the process as a success.
func (m *Machine) lasted() {
	m.record.Ladder.Starting = false
	rung, _ := m.rung()
	if rung != RungLastKnownGood {
		m.persist(false)
		return
	}
	m.record.Ladder = Ladder{}
	tell := m.vindicate()
	m.persist(false)
	tell()
}

// vindicate notes that the last known good is good after all, for each part of which
// the server was told that it failed. It returns what tells the server.
func (m *Machine) vindicate() func() {
	files, values := m.lastKnownGoodFailed(), m.goodSettingsFailed()
	if files {
		m.record.Status = Status{Hash: m.record.Status.Hash, State: StatusApplied}
	}
	if values {
		m.record.Settings = Status{Hash: m.record.Settings.Hash, State: StatusApplied}
	}
	return func() { m.tellBoth(files, values) }
}
