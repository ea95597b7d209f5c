package rollout

import (
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
	// RollingBack: what ran failed, or an operator did not want it; the last
	// known good has not started yet.
	RollingBack State = "rolling back"
)

// transitions are all legal changes of state; tests compare them with what
// the scenarios reach, and the architecture page shows them.
var transitions = map[State][]State{
	Idle:        {Checking, Applying, RollingBack},
	Checking:    {Idle, Applying},
	Applying:    {Trial, RollingBack, Idle},
	Trial:       {Applying, RollingBack, Idle},
	RollingBack: {Idle},
}

// Machine is the rollout of remote configurations, and of the values that connection
// settings give to them and to the local configuration. It must be used as the
// package comment says.
//
// Invariants:
//
//  1. There is at most one candidate. A newer offer replaces it only when the
//     machine is idle again, and the newest offer of each kind is never lost: none
//     displaces one of the other kind. Of two that wait, the remote configuration
//     is first.
//  2. LastKnownGood only ever becomes what was Ready and healthy for a whole trial,
//     or has the same body and values: each was tried with the other.
//  3. Ready, errors and the trial count for the configuration that the
//     generation was served, and for no other.
//  4. Nothing is triggered or served that is not in a persisted record.
//  5. A rejected remote configuration is not tried again, with whatever values,
//     unless it is offered under another hash, or its verdict's context has
//     changed. Rejected values are not tried again with the same remote
//     configuration, with the same exceptions.
//  6. A process that boots from any record that was persisted runs the
//     candidate in trial or the last known good.
//  7. The server is told about an offer under its hash, and about each kind of
//     offers by an effect of its own.
type Machine struct {
	record Record
	state  State

	// checking is what the dry run works on in state Checking; passed is its
	// outcome while it waits for the service to be ready.
	checking Candidate
	passed   *Checked
	// next and nextSettings are the newest offers of their kinds that wait for the
	// machine to be idle. What they are tried with is only known then.
	next         *Offered
	nextSettings *SettingsOffered

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
	// atOnce: what the former process died of is no reason for a pause.
	atOnce bool
	// fallen is the ladder before the process tried to leave safe mode.
	fallen Ladder
	// noSafe: there is nothing that could be run in safe mode.
	noSafe bool
	// managed: an extension belongs to this agent.
	managed bool
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

	// seen is the first error of a component since the last Retrieve, while
	// there is no candidate to keep it with.
	seen string

	// stopped: the process ends in order; nothing that happens from now on is
	// a verdict.
	stopped bool

	// timer, settle (of the SettleTimer or the QuietTimer) and stable are the IDs of the timers that count; awaiting
	// says which one timer is.
	timers   uint64
	timer    uint64
	awaiting Timer
	settle   uint64
	stable   uint64

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

// Digests returns the digests of all that the machine may still need: bodies of
// remote configurations, and values. Both are named by their digests.
func (m *Machine) Digests() []string {
	digests := m.record.Digests()
	if m.state == Checking {
		digests = addDigests(digests, m.checking.Ref.Digest, m.checking.Ref.Values)
	}
	if m.next != nil {
		digests = addDigests(digests, m.next.Ref.Digest)
	}
	if m.nextSettings != nil {
		digests = addDigests(digests, m.nextSettings.Values)
	}
	return digests
}

// Running returns what the attached service was given; it is meaningful once
// the service is ready.
func (m *Machine) Running() remoteconfig.Ref { return m.served }

// Generation returns the number of the latest Retrieve.
func (m *Machine) Generation() uint64 { return m.generation }

// AtRest reports whether nothing is being worked on, and the service is ready or
// not yet asked for.
func (m *Machine) AtRest() bool { return m.state == Idle && (m.ready || m.generation == 0) }

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
	switch event.(type) {
	case PersistFailed, Unusable: // they belong to the Retrieve before
	default:
		m.retrieving = false
	}
	switch e := event.(type) {
	case Booted:
		m.booted(e)
	case Offered:
		m.offered(e)
	case SettingsOffered:
		m.settingsOffered(e)
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
	case Unusable:
		m.unusable(e)
	case GoneBack:
		m.goneBack(e)
	case Forgiven:
		m.forgiven()
	case Stopping:
		m.stopping(e)
	}
	return m.effects
}

func (m *Machine) do(e Effect) { m.effects = append(m.effects, e) }

func (m *Machine) persist(must bool) { m.do(Persist{Record: m.record.clone(), Must: must}) }

func (m *Machine) count(o Outcome) {
	if m.record.Counts == nil {
		m.record.Counts = map[Outcome]uint64{}
	}
	m.record.Counts[o]++
}

// tell tells the server what the record says about offers of the kind of c.
func (m *Machine) tell(c Candidate) {
	if c.Settings != "" {
		m.do(ReportSettings{Status: m.record.Settings})
	} else {
		m.do(Report{Status: m.record.Status})
	}
}

// tellBoth tells the server what the record says, about the remote configuration
// and about the values.
func (m *Machine) tellBoth(files, values bool) {
	if files {
		m.do(Report{Status: m.record.Status})
	}
	if values {
		m.do(ReportSettings{Status: m.record.Settings})
	}
}

func (m *Machine) startTimer(t Timer) uint64 {
	m.timers++
	m.do(StartTimer{ID: m.timers, Timer: t})
	return m.timers
}

// await starts the timer that limits what the machine waits for now.
func (m *Machine) await(t Timer) { m.timer, m.awaiting = m.startTimer(t), t }

func (m *Machine) become(s State, ref remoteconfig.Ref, reason string) {
	if m.state != s {
		m.do(Moved{From: m.state, To: s, Ref: ref, Reason: reason})
	}
	m.state = s
}
