package rollout

import "github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"

// Effect is something to do. See the types below.
type Effect interface{ effect() }

// Persist asks to make the record durable.
type Persist struct {
	Record Record
	// Must means that what follows is unsafe without it.
	Must bool
}

// Check asks to save what Ref names, the body of a configuration and values, as far
// as it is not saved already, and to dry-run both together.
type Check struct {
	Ref remoteconfig.Ref
	// Settings is as in [Candidate].
	Settings string
}

// Trigger asks to make the host reload. One reload that is still to come
// serves any number of triggers.
type Trigger struct{}

// Serve answers [Retrieve].
type Serve struct {
	Generation uint64
	Ref        remoteconfig.Ref
	Rung       Rung
	// Failures is how many starts in a row failed before this one; the host is
	// to be answered the later the more there were, never in a hot loop.
	Failures int
}

// Report asks to tell the server about the remote configuration.
type Report struct{ Status Status }

// ReportSettings asks to tell the server about the values in its connection
// settings. The unset status means that none of them is known here, so that the
// server may offer them again.
type ReportSettings struct{ Status Status }

// StartTimer asks for a [TimerFired] with the same ID after the timer's time.
type StartTimer struct {
	ID    uint64
	Timer Timer
}

// Timer names a duration that the user configures.
type Timer string

// The timers.
const (
	// DrainTimer limits the time from the trigger to Retrieve.
	DrainTimer Timer = "drain"
	// ApplyTimer limits the time from Retrieve to Ready.
	ApplyTimer Timer = "apply"
	// TrialTimer is how long a candidate must stay healthy.
	TrialTimer Timer = "trial"
	// FatalTimer limits the time from a FatalError to the host's end: two of
	// them at once leave it deadlocked.
	FatalTimer Timer = "fatal"
	// StableTimer is how long what was started without a trial must live
	// before its start counts as a success.
	StableTimer Timer = "stable"
	// SettleTimer is how long the host may take from Retrieve to the begin of
	// a full reload; later, silence means that it applied the configuration
	// in place.
	SettleTimer Timer = "settle"
	// QuietTimer is how long the host may take between two components that it
	// exchanges in place; later, silence means that it exchanged the last one.
	QuietTimer Timer = "quiet"
)

// Restart asks to replace the process. What runs afterwards is in the record.
type Restart struct {
	Reason string
	// SafeMode means that the successor is to run nothing but the agent.
	SafeMode bool
}

// Moved tells that the state changed; it is for the log only.
type Moved struct {
	From, To State
	Ref      remoteconfig.Ref
	Reason   string
}

func (Persist) effect()        {}
func (Check) effect()          {}
func (Trigger) effect()        {}
func (Serve) effect()          {}
func (Report) effect()         {}
func (ReportSettings) effect() {}
func (StartTimer) effect()     {}
func (Restart) effect()        {}
func (Moved) effect()          {}
