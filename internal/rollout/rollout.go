package rollout

import (
	"maps"
	"slices"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

// State is what the machine is doing.
type State string

// The states.
const (
	// Idle: the last known good runs and no offer is being worked on.
	Idle State = "idle"
	// Checking: the last known good runs while a candidate is dry-run.
	Checking State = "checking"
	// Applying: the candidate was triggered and has not started yet.
	Applying State = "applying"
	// Trial: the candidate runs and must stay healthy.
	Trial State = "trial"
	// RollingBack: a candidate failed; the last known good has not started yet.
	RollingBack State = "rolling back"
)

// transitions are all legal changes of state; tests compare them with what
// the scenarios reach, and the architecture page shows them.
var transitions = map[State][]State{
	Idle:        {Checking, Applying},
	Checking:    {Idle, Applying},
	Applying:    {Trial, RollingBack, Idle},
	Trial:       {Applying, RollingBack, Idle},
	RollingBack: {Idle},
}

// Machine is the rollout of remote configurations. It must be used as the
// package comment says.
//
// Invariants:
//
//  1. There is at most one candidate. A newer offer replaces it only when the
//     machine is idle again, and the newest offer is never lost.
//  2. LastKnownGood only ever becomes a configuration that was Ready and
//     healthy for a whole trial, or one with the same body.
//  3. Ready, errors and the trial count for the configuration that the
//     generation was served, and for no other.
//  4. Nothing is triggered or served that is not in a persisted record.
//  5. A rejected configuration is not tried again unless it is offered under
//     another hash, or its verdict's context has changed.
//  6. A process that boots from any record that was persisted runs the
//     candidate in trial or the last known good.
type Machine struct {
	record Record
	state  State

	// checking is what the dry run works on in state Checking; passed is its
	// outcome while it waits for the service to be ready.
	checking remoteconfig.Ref
	passed   *Checked
	// next is the newest offer that waits for the machine to be idle.
	next *Offered

	// generation counts Retrieves; served is what the latest was given.
	generation uint64
	served     remoteconfig.Ref
	// instance is the generation whose extension instance is attached.
	instance uint64
	// retrieving: the latest event was a Retrieve, whose answer is lost if its
	// Persist fails.
	retrieving bool

	// bootID identifies this boot of the machine.
	bootID string
	// safe: this process runs nothing but the agent.
	safe bool
	// fatal: the host was told of a FatalError.
	fatal bool
	// noSafe: there is nothing that could be run in safe mode.
	noSafe bool
	// retired: the attached service was told to stop and nothing was retrieved
	// since.
	retired bool

	// ready: all components of the attached instance have started.
	ready bool
	// partial: the latest Retrieve came while the service was running, and
	// neither a full reload nor silence has followed yet. Busy are the
	// components that are being stopped or started meanwhile, and touched
	// means that there was any.
	partial bool
	touched bool
	settled bool
	busy    map[string]bool

	// failed are the components that are in error and why; baseline are those
	// that were under the last known good and so prove nothing.
	failed   map[string]string
	baseline map[string]bool

	// stopped: the process ends in order; nothing that happens from now on is
	// a verdict.
	stopped bool

	// timer, settle and stable are the IDs of the timers that count.
	timers uint64
	timer  uint64
	settle uint64
	stable uint64

	effects []Effect
}

// New returns a machine that waits for [Booted].
func New() *Machine {
	return &Machine{state: Idle, failed: map[string]string{}, baseline: map[string]bool{}, busy: map[string]bool{}}
}

// State returns what the machine is doing.
func (m *Machine) State() State { return m.state }

// Record returns the record as it should be on disk.
func (m *Machine) Record() Record { return m.record.clone() }

// Digests returns the digests of all bodies that the machine may still need.
func (m *Machine) Digests() []string {
	digests := m.record.Digests()
	if m.state == Checking {
		digests = append(digests, m.checking.Digest)
	}
	if m.next != nil {
		digests = append(digests, m.next.Ref.Digest)
	}
	return digests
}

// Running returns what the attached service was given; it is meaningful once
// the service is ready.
func (m *Machine) Running() remoteconfig.Ref { return m.served }

// Generation returns the number of the latest Retrieve.
func (m *Machine) Generation() uint64 { return m.generation }

// Instance returns the generation to which the attached extension instance
// belongs. It grows without a new instance after a partial reload.
func (m *Machine) Instance() uint64 { return m.instance }

// Step takes one event and returns what to do, in order. The caller owns the
// result.
func (m *Machine) Step(event Event) []Effect {
	m.effects = nil
	if m.stopped {
		return nil
	}
	if _, failed := event.(PersistFailed); !failed {
		m.retrieving = false
	}
	switch e := event.(type) {
	case Booted:
		m.booted(e)
	case Offered:
		m.offered(e)
	case Checked:
		m.checked(e)
	case Retrieve:
		m.retrieve(e)
	case Started:
		m.started()
	case Ready:
		m.becomeReady(e)
	case NotReady:
		m.notReady(e)
	case ComponentStatus:
		m.componentStatus(e)
	case Evidence:
		m.evidence(e)
	case HostEnded:
		m.hostEnded(e)
	case Repaired:
		m.record.Ladder = Ladder{}
		m.persist(false)
		m.do(Restart{Reason: "leaving safe mode: what is local has changed and is valid"})
	case TimerFired:
		m.timerFired(e)
	case PersistFailed:
		m.persistFailed(e)
	case Stopping:
		m.stopping(e)
	}
	return m.effects
}

func (m *Machine) do(e Effect) { m.effects = append(m.effects, e) }

func (m *Machine) persist(must bool) { m.do(Persist{Record: m.record.clone(), Must: must}) }

// report tells the server, unless it knows.
func (m *Machine) report(s Status) {
	if m.record.Status != s {
		m.record.Status = s
		m.do(Report{Status: s})
	}
}

func (m *Machine) startTimer(t Timer) uint64 {
	m.timers++
	m.do(StartTimer{ID: m.timers, Timer: t})
	return m.timers
}

func (m *Machine) become(s State, ref remoteconfig.Ref, reason string) {
	if m.state != s {
		m.do(Moved{From: m.state, To: s, Ref: ref, Reason: reason})
	}
	m.state = s
}

// booted starts from a record. A candidate that the host had been given when
// the process died is rejected; one that it had not, or whose trial was ended
// in order, has its trial now.
//
// A machine that was rebooted takes the process with it, which proves nothing;
// but a configuration that keeps taking the machine with it is no good either.
func (m *Machine) booted(e Booted) {
	m.record, m.bootID, m.safe, m.noSafe = e.Record.clone(), e.BootID, e.SafeMode, e.NoSafeMode
	if c := m.record.Candidate; c != nil {
		rebooted := c.BootID != e.BootID
		switch {
		case (c.Phase == PhasePending || c.Phase == PhaseTriggered) && c.Resumed <= maxResumed:
			m.become(Applying, c.Ref, "resuming after a restart")
		case rebooted && c.Resumed < maxResumed:
			c.Resumed++
			m.become(Applying, c.Ref, "resuming after a reboot of the machine")
		default:
			reason := "the process ended while this configuration was in trial (phase " + string(c.Phase) + ")"
			m.verdict(join(reason, c.Evidence, e.Evidence))
		}
		return
	}
	if m.record.Status.State == StatusApplying {
		// The process ended during the dry run: nothing is being applied any
		// more, and the server must offer it again.
		m.record.Status = Status{}
	}
	if l := &m.record.Ladder; l.Starting && l.BootID == e.BootID {
		l.Starting = false
		m.fall(join("the process ended before it was ready", e.Evidence))
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
	failed := m.record.LastKnownGood
	if failed.IsZero() {
		m.persist(false)
		return // there is nothing that the server would know by a hash
	}
	m.record.Status = Status{Hash: failed.Hash, State: StatusFailed, Message: m.rolledBack(reason)}
	m.persist(false)
	m.do(Report{Status: m.record.Status})
}

// evidence takes note of an error that no instance could report.
func (m *Machine) evidence(e Evidence) {
	c := m.record.Candidate
	if c == nil || m.state != Applying || c.Phase == PhaseTriggered || c.Phase == PhasePending {
		return
	}
	if e.Fatal {
		m.reject(e.Text, Restart{Reason: e.Text})
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
	m.record.Ladder.Starting = false // the successor is not to count it again
	if e.LocalBroken && m.noSafe {
		// Nothing that this process could become would be any better: it ends
		// with the host's own error, as every Collector does.
		m.stopping(Stopping{})
		return
	}
	if c == nil {
		if evidence, ok := m.unhealthy(); ok {
			reason = join(reason, evidence)
		}
	}
	switch {
	case e.LocalBroken:
		m.record.Ladder.Failures = max(m.record.Ladder.Failures, m.record.bottom()-1)
		m.fall(reason)
	case c != nil && (c.Phase == PhaseTriggered || c.Phase == PhasePending), m.retired:
		reason = "the retiring configuration did not stop in order: " + reason // no verdict
	case c != nil:
		m.verdict(join(reason, c.Evidence))
	default:
		m.fall(reason)
	}
	m.stopped = true
	rung, _ := m.rung()
	m.do(Restart{Reason: reason, SafeMode: m.record.Candidate == nil && rung == RungSafeMode})
}

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
		m.settleStatus(Status{Hash: e.Ref.Hash, State: StatusApplied})
		return
	}
	if j, ok := m.record.rejected(e.Ref, e.Context); ok {
		text := j.Reason
		if j.Context == "" {
			text = m.rolledBack(text)
		}
		m.settleStatus(Status{Hash: e.Ref.Hash, State: StatusFailed, Message: text})
		return
	}
	m.checking = e.Ref
	m.become(Checking, e.Ref, "")
	m.report(Status{Hash: e.Ref.Hash, State: StatusApplying})
	m.do(Check{Ref: e.Ref})
}

// settleStatus persists and reports a final status, if it is news.
func (m *Machine) settleStatus(s Status) {
	if m.record.Status == s {
		return
	}
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
		m.settleStatus(Status{Hash: e.Ref.Hash, State: StatusFailed, Message: e.Reason})
		m.idle(e.Ref, e.Reason)
	case m.safe:
		// The local configuration comes back with the candidate: only a
		// process with its own arguments can run it.
		m.record.Candidate = &Candidate{Ref: e.Ref, Phase: PhasePending}
		m.record.Ladder = Ladder{}
		m.become(Applying, e.Ref, "leaving safe mode")
		m.persist(true)
		m.do(Restart{Reason: "leaving safe mode for a new configuration"})
	default:
		m.record.Candidate = &Candidate{Ref: e.Ref, Phase: PhaseTriggered}
		m.baseline = map[string]bool{}
		for key := range m.failed {
			m.baseline[key] = true
		}
		m.become(Applying, e.Ref, "")
		m.persist(true)
		m.timer = m.startTimer(DrainTimer)
		m.do(Trigger{})
	}
}

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
	m.partial = e.Partial && m.ready
	m.touched, m.settled = false, false
	clear(m.busy)
	if !m.partial {
		m.ready = false
		clear(m.failed)
	}
	m.retired = false
	switch c := m.record.Candidate; {
	case c != nil && !m.safe:
		m.become(Applying, c.Ref, "")
		c.Phase, c.BootID = PhaseRetrieved, m.bootID
		m.persist(true)
	case c == nil && m.generation == 0 && !m.mustGoSafe():
		m.record.Ladder.Starting, m.record.Ladder.BootID = true, m.bootID
		m.persist(false)
	}
	m.serve()
	if m.mustGoSafe() {
		m.do(Restart{Reason: "nothing starts: " + m.record.Ladder.Reason, SafeMode: true})
	}
}

// mustGoSafe reports whether only safe mode is left and this process, started by
// somebody else, is not in it.
func (m *Machine) mustGoSafe() bool {
	rung, _ := m.rung()
	return rung == RungSafeMode && m.record.Candidate == nil && !m.safe
}

func (m *Machine) serve() {
	m.generation++
	m.served = m.target()
	rung, _ := m.rung()
	failures := m.record.Ladder.Failures
	if m.generation > 1 || m.record.Candidate != nil {
		failures = 0 // no start of a process, or one that is not to blame
	}
	if m.safe {
		failures = max(0, failures-m.record.bottom()) // those of safe mode itself
	}
	m.do(Serve{Generation: m.generation, Ref: m.served, Rung: rung, Failures: failures})
	if m.state == Applying || m.state == RollingBack {
		m.timer = m.startTimer(ApplyTimer)
	}
	if m.partial {
		m.settle = m.startTimer(SettleTimer)
	}
}

func (m *Machine) started() {
	m.instance = m.generation
	m.partial = false
	if c := m.record.Candidate; c != nil && m.state == Applying {
		c.Phase = PhaseStarted
		m.persist(false)
	}
}

func (m *Machine) becomeReady(e Ready) {
	if e.Generation != m.generation || e.Generation != m.instance {
		return
	}
	m.ready = true
	m.partial = false
	m.settle = 0
	if m.record.Ladder.Starting {
		m.record.Ladder.Starting = false
		m.persist(false)
		m.stable = m.startTimer(StableTimer)
	}
	switch m.state {
	case Applying:
		m.record.Candidate.Phase = PhaseReady
		if reason, ok := m.unhealthy(); ok {
			m.reject(reason, Trigger{})
			return
		}
		m.become(Trial, m.record.Candidate.Ref, "")
		m.persist(false)
		m.timer = m.startTimer(TrialTimer)
	case RollingBack:
		if m.served != m.target() {
			// The rejected candidate came up after all, too late.
			m.timer = m.startTimer(DrainTimer)
			m.do(Trigger{})
			return
		}
		m.idle(m.served, "last known good runs again")
	case Idle:
		m.takeNext()
	case Checking:
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
	m.retired = m.ready && m.stable == 0
	m.ready = false
	if m.state == Trial {
		// Somebody asked for a reload. The trial begins again with it, and a
		// service that hangs while it stops is no verdict.
		m.record.Candidate.Phase = PhaseTriggered
		m.become(Applying, m.record.Candidate.Ref, "reloading during the trial")
		m.timer = m.startTimer(DrainTimer)
	}
	if !m.partial {
		return
	}
	// The host gives the partial reload up. If it had begun one, the
	// candidate failed in it, and the full reload that follows is the
	// rollback; if not, the change needs a full reload, which is no verdict.
	m.partial = false
	m.settle = 0
	if m.touched && m.state == Applying {
		reason, ok := m.unhealthy()
		if !ok {
			reason = "the Collector could not exchange its receivers in place"
		}
		m.reject(reason) // the host reloads by itself
	}
}

func (m *Machine) componentStatus(e ComponentStatus) {
	if e.Generation != m.instance || (m.instance != m.generation && !m.partial) {
		return
	}
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
	reason, bad := m.unhealthy()
	c := m.record.Candidate
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
		m.reject(reason, Restart{Reason: reason})
	case m.state == Applying && c.Evidence == "":
		c.Evidence = reason
		m.persist(false)
	case m.state == Trial && e.State == ComponentFatal:
		// The host ends by itself, unless it deadlocks.
		m.reject(reason)
		m.timer = m.startTimer(FatalTimer)
	case m.state == Trial:
		m.reject(reason, Trigger{})
	}
	m.trySettle()
}

// trySettle takes a partial reload for done when the host has had time to
// begin a full one and no component is being exchanged.
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
		if rung, _ := m.rung(); rung == RungLastKnownGood && (m.record.Ladder.Failures > 0 || m.lastKnownGoodFailed()) {
			m.record.Ladder = Ladder{}
			var report []Effect
			if m.lastKnownGoodFailed() {
				m.record.Status = Status{Hash: m.record.LastKnownGood.Hash, State: StatusApplied}
				report = append(report, Report{Status: m.record.Status})
			}
			m.persist(false)
			m.effects = append(m.effects, report...)
		}
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
		applied := m.record.Candidate.Ref
		m.record.promote()
		m.record.Status = Status{Hash: applied.Hash, State: StatusApplied}
		m.persist(false)
		m.do(Report{Status: m.record.Status})
		m.idle(applied, "healthy for the whole trial")
	case Applying:
		if m.record.Candidate.Phase == PhaseTriggered {
			m.do(Restart{Reason: "the retiring configuration did not stop within drain_timeout"})
			return
		}
		reason := "it was not ready within apply_timeout"
		if m.record.Candidate.Evidence != "" {
			reason += "; before that: " + m.record.Candidate.Evidence
		}
		m.reject(reason, Restart{Reason: reason})
	case RollingBack:
		m.do(Restart{Reason: "the last known good was not ready within apply_timeout"})
	case Idle, Checking:
	}
}

// reject gives the candidate up after it was triggered and goes back to the
// last known good; how says how the host gets there, if it must be told.
func (m *Machine) reject(reason string, how ...Effect) {
	ref := m.record.Candidate.Ref
	m.verdict(reason, how...)
	m.timer = m.startTimer(DrainTimer)
	m.become(RollingBack, ref, reason)
}

// verdict persists and reports that the candidate failed; between the two it
// does what gets the host back.
func (m *Machine) verdict(reason string, between ...Effect) {
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

// lastKnownGoodFailed reports whether the server was told that the last known
// good failed, which a start that lasts makes untrue.
func (m *Machine) lastKnownGoodFailed() bool {
	s := m.record.Status
	return s.State == StatusFailed && !m.record.LastKnownGood.IsZero() && s.Hash == m.record.LastKnownGood.Hash
}

func (m *Machine) persistFailed(e PersistFailed) {
	c := m.record.Candidate
	if c == nil {
		return
	}
	// The candidate cannot be tried safely. It is not remembered as rejected:
	// nothing is known about it.
	ref := c.Ref
	m.record.Candidate = nil
	text := m.rolledBack("saving the state of this rollout: " + e.Reason)
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

func (m *Machine) stopping(e Stopping) {
	m.stopped = true
	// Somebody takes the process in hand: the next one starts from the top.
	// Unless it was stopped because it did not come up, or ends by itself.
	changed := m.record.Ladder.Starting && !e.NotComingUp
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
