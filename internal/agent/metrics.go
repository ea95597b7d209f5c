package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// Metrics are an agent's figures at one moment. They outlive reloads, and the
// counts of outcomes also the process.
type Metrics struct {
	Session *session.Counters // live
	// CustomMessagesDropped counts custom messages that were lost for want of a
	// reader or of room.
	CustomMessagesDropped *custommessages.Counters // live
	// Outcomes counts what became of offers.
	Outcomes map[rollout.Outcome]uint64
	// Applied is whether the latest offer was applied; false while it is worked
	// on. LastApplied is when one was; zero if none ever was.
	Applied     bool
	LastApplied time.Time
	// Running is what the Collector was given, Received what the server was told
	// of last.
	Running  remoteconfig.Ref
	Received string // the server's hash in hexadecimal; empty if none came
	// Rung and FailedStarts say how deep the process has fallen.
	Rung         rollout.Rung
	FailedStarts int
	// WriteErrors counts failures to save the rollout's record.
	WriteErrors uint64
	// SettingsReceived is whether the server ever offered connection settings, and
	// SettingsApplied whether the latest were applied.
	SettingsReceived, SettingsApplied bool
	// Switched and SwitchedBack count what became of offered settings of the OpAMP
	// connection in this process.
	Switched, SwitchedBack uint64
	// CertificateExpiry is that of the certificate that the server gave; zero if
	// there is none.
	CertificateExpiry time.Time
}

// Metrics returns the agent's figures. It never waits, whatever the agent does.
// The caller must not modify the maps.
func (e *ExtensionLease) Metrics() Metrics {
	if m := e.agent.figures.Load(); m != nil {
		return *m
	}
	return Metrics{Session: &e.agent.counters, CustomMessagesDropped: &e.agent.custom.registry.Dropped}
}

// publish makes the figures of the moment readable.
func (a *Agent) publish() {
	r := a.machine.Record()
	rung, _ := a.machine.Rung()
	settings := a.settingsStatus()
	a.figures.Store(&Metrics{
		SettingsReceived:  len(settings.Hash) > 0,
		SettingsApplied:   settings.State == session.Applied,
		Switched:          a.connections.switched,
		SwitchedBack:      a.connections.switchedBack,
		CertificateExpiry: a.certificateEnd(),

		Session: &a.counters,

		CustomMessagesDropped: &a.custom.registry.Dropped,

		Outcomes:     maps.Clone(r.Counts),
		Applied:      r.Status.State == rollout.StatusApplied,
		LastApplied:  a.lastApplied,
		Running:      a.machine.Running(),
		Received:     r.Status.Hash,
		Rung:         rung,
		FailedStarts: r.Ladder.Failures,
		WriteErrors:  a.writeErrors,
	})
}

// took takes note of an offer's way: when its dry run began, and when it was
// applied.
func (a *Agent) took(effect rollout.Effect) {
	switch effect.(type) {
	case rollout.Check:
		a.checkedAt = time.Now()
	case rollout.Report:
		if n := a.machine.Record().Counts[rollout.OutcomeApplied]; n > a.applied {
			a.applied, a.lastApplied = n, time.Now()
			if !a.checkedAt.IsZero() && a.settings.Applied != nil {
				a.settings.Applied(a.lastApplied.Sub(a.checkedAt))
			}
			a.checkedAt = time.Time{}
		}
	case rollout.ReportSettings: // no remote configuration: neither its time nor its duration
		a.applied, a.checkedAt = a.machine.Record().Counts[rollout.OutcomeApplied], time.Time{}
	}
}

// lastAppliedIn returns when a configuration was applied, as far as the history
// tells.
func lastAppliedIn(history []happened) time.Time {
	for _, h := range slices.Backward(history) {
		if h.What == "status "+string(rollout.StatusApplied) {
			return h.At
		}
	}
	return time.Time{}
}
