package rollout_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

// TestScenarios runs the stories in testdata. Each line of a command's input
// and output is an event and the effects it has. "go test -rewrite" writes the
// outputs anew; only commit them if you understand what changed and want it.
//
// Configurations are named by capitals: A has hash "a" and a body of its own;
// A2 has hash "a2" and the body of A. A+v is A with the values v, none+v are the
// values v alone. Connection settings are named by capitals, too.
func TestScenarios(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Helper()
		env := &env{timers: map[rollout.Timer]uint64{}, reached: reached}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return env.command(t, d)
		})
	})
	if !t.Failed() {
		checkTransitions(t, reached)
	}
}

// checkTransitions demands that the scenarios reach every legal change of
// state, and no other.
func checkTransitions(t *testing.T, reached map[string]bool) {
	t.Helper()
	for from, tos := range rollout.Transitions() {
		for _, to := range tos {
			key := fmt.Sprintf("%s → %s", from, to)
			if !reached[key] {
				t.Errorf("no scenario reaches %s", key)
			}
			delete(reached, key)
		}
	}
	for key := range reached {
		t.Errorf("a scenario reaches %s, which the table does not allow", key)
	}
}

type env struct {
	m       *rollout.Machine
	disk    rollout.Record
	timers  map[rollout.Timer]uint64
	reached map[string]bool
	out     strings.Builder
	// safe: the next process is to run nothing but the agent.
	safe bool
	// noSafe: there is no safe mode.
	noSafe bool
	// managed: an extension belonged to the agent before.
	managed bool
	// bootID is that of the machine.
	bootID string
	// diskFull makes every Persist fail.
	diskFull bool
}

func ref(name string) remoteconfig.Ref {
	name, values, _ := strings.Cut(name, "+")
	if name == "" || name == "none" {
		return remoteconfig.Ref{Values: values}
	}
	return remoteconfig.Ref{Hash: strings.ToLower(name), Digest: "body-" + strings.ToLower(name[:1]), Values: values}
}

func name(r remoteconfig.Ref) string {
	s := "none"
	if r.Digest != "" {
		s = strings.ToUpper(r.Hash)
	}
	if r.Values != "" {
		s += "+" + r.Values
	}
	return s
}

// of names the connection settings that an effect is about, if it is about any.
func of(settings string) string {
	if settings == "" {
		return ""
	}
	return " of settings " + strings.ToUpper(settings)
}

func (e *env) command(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	e.out.Reset()
	arg := func(key string) string {
		var v string
		d.MaybeScanArgs(t, key, &v)
		return v
	}
	word := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	instance := func() uint64 {
		if d.HasArg("late") { // an event of the former instance
			return e.m.Instance() - 1
		}
		return e.m.Instance()
	}
	switch d.Cmd {
	case "boot": // lkg=A earlier=C candidate=B phase=ready [settings=S] [no-safe-mode] [unmanaged]
		e.disk = rollout.Record{LastKnownGood: ref(arg("lkg"))}
		e.noSafe = d.HasArg("no-safe-mode")
		if e.disk.LastKnownGood.Digest != "" {
			e.disk.Status = rollout.Status{Hash: e.disk.LastKnownGood.Hash, State: rollout.StatusApplied}
		}
		if settings := strings.ToLower(arg("settings")); settings != "" { // those of lkg
			e.disk.Settings = rollout.Status{Hash: settings, State: rollout.StatusApplied}
			e.disk.Applied = rollout.AppliedSettings{Hash: settings, Values: e.disk.LastKnownGood.Values}
		}
		if c := arg("candidate"); c != "" {
			e.disk.Candidate = &rollout.Candidate{Ref: ref(c), Phase: rollout.Phase(arg("phase")), Evidence: strings.TrimSpace(d.Input)}
			e.disk.Status = rollout.Status{Hash: ref(c).Hash, State: rollout.StatusApplying}
		}
		e.managed = !d.HasArg("unmanaged")
		if earlier := arg("earlier"); earlier != "" {
			e.disk.Earlier = []remoteconfig.Ref{ref(earlier)}
		}
		e.boot()
	case "crash": // the process dies and the next one boots from the disk
		e.boot()
	case "offer": // offer B [context=…]
		e.step(rollout.Offered{Ref: ref(word(0)), Context: arg("context")})
	case "settings": // settings S v [context=…]; v is none if all values are withdrawn
		e.step(rollout.SettingsOffered{Hash: strings.ToLower(word(0)), Values: strings.TrimPrefix(word(1), "none"), Context: arg("context")})
	case "checked": // checked B [context=…] [transient], the reason as input
		e.step(rollout.Checked{Ref: ref(word(0)), Context: arg("context"), Reason: strings.TrimSpace(d.Input), Transient: d.HasArg("transient")})
	case "retrieve":
		e.step(rollout.Retrieve{Partial: d.HasArg("partial"), Managed: e.managed})
	case "started":
		e.step(rollout.Started{})
	case "ready":
		e.step(rollout.Ready{Generation: instance()})
	case "reload": // a whole reload that works
		e.step(rollout.NotReady{Generation: e.m.Instance()})
		e.step(rollout.Retrieve{Managed: e.managed})
		e.step(rollout.Started{})
		e.step(rollout.Ready{Generation: e.m.Instance()})
	case "not-ready":
		e.step(rollout.NotReady{Generation: instance()})
	case "component": // component exporter/x permanent, the error as input
		e.step(rollout.ComponentStatus{Generation: instance(), Key: word(0), Component: word(0), State: rollout.ComponentState(word(1)), Err: strings.TrimSpace(d.Input)})
	case "timer": // timer trial [late]
		id := e.timers[rollout.Timer(word(0))]
		if id == 0 {
			d.Fatalf(t, "no timer %q was started", word(0))
		}
		if d.HasArg("late") {
			id--
		}
		e.step(rollout.TimerFired{ID: id})
	case "disk": // disk full, disk ok
		e.diskFull = word(0) == "full"
	case "host-ended": // host-ended [local], the reason as input
		e.step(rollout.HostEnded{Reason: strings.TrimSpace(d.Input), LocalBroken: d.HasArg("local"), NoSafeMode: e.noSafe})
	case "unusable": // what was served last cannot be used, the reason as input
		e.step(rollout.Unusable{Ref: e.m.Running(), Reason: strings.TrimSpace(d.Input)})
	case "go-back": // go-back A
		e.step(rollout.GoneBack{To: ref(word(0))})
	case "forgive":
		e.step(rollout.Forgiven{})
	case "repaired":
		e.step(rollout.Repaired{})
	case "evidence": // evidence [fatal], the text as input
		e.step(rollout.Evidence{Text: strings.TrimSpace(d.Input), Fatal: d.HasArg("fatal")})
	case "reboot": // the machine goes down and comes up again
		e.bootID += "'"
		e.boot()
	case "stop": // stop [not-coming-up]
		e.step(rollout.Stopping{NotComingUp: d.HasArg("not-coming-up")})
	case "counts": // what became of the offers
		for _, o := range slices.Sorted(maps.Keys(e.m.Record().Counts)) {
			fmt.Fprintf(&e.out, "%s: %d\n", o, e.m.Record().Counts[o])
		}
	case "status": // what the next session states at first
		status := e.m.Record().Status
		fmt.Fprintf(&e.out, "%q %s\n", status.State, strings.ToUpper(status.Hash))
		if settings := e.m.Record().Settings; settings != (rollout.Status{}) {
			fmt.Fprintf(&e.out, "settings %q %s\n", settings.State, strings.ToUpper(settings.Hash))
		}
	case "state":
		r := e.m.Record()
		fmt.Fprintf(&e.out, "%s, running %s, last known good %s", e.m.State(), name(e.m.Running()), name(r.LastKnownGood))
		for _, j := range r.Rejected {
			fmt.Fprintf(&e.out, ", rejected %s%s", name(j.Ref), of(j.Settings))
		}
		e.out.WriteByte('\n')
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	if e.out.Len() == 0 {
		return "ok\n"
	}
	return e.out.String()
}

func (e *env) boot() {
	e.m = rollout.New()
	clear(e.timers)
	safe := e.safe
	e.safe = false
	e.step(rollout.Booted{Record: e.disk, BootID: e.bootID, SafeMode: safe, NoSafeMode: e.noSafe, Managed: e.managed})
}

func (e *env) step(event rollout.Event) {
	for _, effect := range e.m.Step(event) {
		switch f := effect.(type) {
		case rollout.Persist:
			if e.diskFull && f.Must {
				fmt.Fprintln(&e.out, "persist! fails")
				e.step(rollout.PersistFailed{Reason: "no space left on device"})
				return
			}
			if !e.diskFull {
				e.disk = f.Record
			}
			fmt.Fprintf(&e.out, "persist")
			if f.Must {
				fmt.Fprintf(&e.out, "!")
			}
			fmt.Fprintf(&e.out, " lkg=%s", name(f.Record.LastKnownGood))
			if l := f.Record.Ladder; l.Failures > 0 {
				fmt.Fprintf(&e.out, " failures=%d", l.Failures)
			}
			if f.Record.Ladder.Starting {
				fmt.Fprint(&e.out, " starting")
			}
			if c := f.Record.Candidate; c != nil {
				fmt.Fprintf(&e.out, " candidate=%s(%s)%s", name(c.Ref), c.Phase, of(c.Settings))
				if c.Evidence != "" {
					fmt.Fprintf(&e.out, " evidence=%q", c.Evidence)
				}
			}
			fmt.Fprintln(&e.out)
		case rollout.Check:
			fmt.Fprintf(&e.out, "check %s%s\n", name(f.Ref), of(f.Settings))
		case rollout.Trigger:
			fmt.Fprintln(&e.out, "trigger")
		case rollout.Serve:
			fmt.Fprintf(&e.out, "serve %s as generation %d", name(f.Ref), f.Generation)
			if f.Rung != rollout.RungLastKnownGood {
				fmt.Fprintf(&e.out, ", %s", f.Rung)
			}
			if f.Failures > 0 {
				fmt.Fprintf(&e.out, " after %d failures", f.Failures)
			}
			fmt.Fprintln(&e.out)
		case rollout.Report:
			e.report("report", f.Status)
		case rollout.ReportSettings:
			e.report("report settings", f.Status)
		case rollout.StartTimer:
			e.timers[f.Timer] = f.ID
			fmt.Fprintf(&e.out, "start %s timer\n", f.Timer)
		case rollout.Restart:
			fmt.Fprintf(&e.out, "restart: %s", f.Reason)
			if f.SafeMode {
				fmt.Fprint(&e.out, " (safe mode)")
			}
			fmt.Fprintln(&e.out)
			e.safe = f.SafeMode
		case rollout.Moved:
			e.reached[fmt.Sprintf("%s → %s", f.From, f.To)] = true
			fmt.Fprintf(&e.out, "%s → %s\n", f.From, f.To)
		}
	}
}

func (e *env) report(what string, s rollout.Status) {
	state := string(s.State)
	if state == "" {
		state = "unset"
	}
	fmt.Fprintf(&e.out, "%s %s %s", what, state, strings.ToUpper(s.Hash))
	if s.Message != "" {
		fmt.Fprintf(&e.out, " %q", s.Message)
	}
	fmt.Fprintln(&e.out)
}
