package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

// world is a host, a disk and a server that do as they like within the rules of
// the package comment. It checks the invariants of Machine from outside, by a
// simpler account of its own.
type world struct {
	t     *testing.T
	r     *rand.Rand
	trace []string

	m       *rollout.Machine
	disk    rollout.Record
	timers  map[uint64]rollout.Timer
	checks  []remoteconfig.Ref
	answer  *rollout.Serve
	reload  bool // a trigger is pending
	diskBad bool

	// What the host really did, by generation.
	given map[uint64]remoteconfig.Ref
	up    uint64 // the generation that is up; 0 if none
	// proven are bodies with values that were up, healthy, while a trial timer fired.
	proven map[pair]bool
	// bad are offers that were rejected (after a trigger), as they must not be
	// checked again.
	bad map[rejected]bool
	// newest and newestSettings are the newest offers, told and toldSettings what the
	// server was told last.
	newest         remoteconfig.Ref
	newestSettings rollout.SettingsOffered
	told           rollout.Status
	toldSettings   rollout.Status
	// safe: the next process is to run nothing but the agent.
	safe bool
	// crashAfter is the number of effects until the process dies; -1 never.
	crashAfter int
}

type crash struct{}

// pair is what the host gets: two refs that differ in the hash are the same to it.
type pair struct{ digest, values string }

func pairOf(r remoteconfig.Ref) pair { return pair{r.Digest, r.Values} }

// rejected is by what an offer is recognized: a remote configuration by hash and
// digest, settings by all three.
type rejected struct{ hash, settings, digest, values string }

func rejectedBy(ref remoteconfig.Ref, settings string) rejected {
	if settings == "" {
		return rejected{hash: ref.Hash, digest: ref.Digest}
	}
	return rejected{settings: settings, digest: ref.Digest, values: ref.Values}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}

// do gives the machine an event and performs its effects; it panics with crash
// when the process is to die.
func (w *world) do(event rollout.Event) {
	w.trace = append(w.trace, fmt.Sprintf("  %T%+v", event, event))
	for _, effect := range w.m.Step(event) {
		w.trace = append(w.trace, fmt.Sprintf("    %T%+v", effect, effect))
		if p, ok := effect.(rollout.Persist); ok && w.diskBad {
			if p.Must {
				w.do(rollout.PersistFailed{Reason: "full"})
				return
			}
			continue
		}
		w.perform(effect)
		if w.crashAfter == 0 {
			panic(crash{})
		}
		w.crashAfter--
	}
}

func (w *world) perform(effect rollout.Effect) {
	switch e := effect.(type) {
	case rollout.Persist:
		lkg := e.Record.LastKnownGood
		if !lkg.IsZero() && !w.proven[pairOf(lkg)] {
			w.fail("invariant 2: %v became the last known good without a trial", lkg)
		}
		for _, j := range e.Record.Rejected {
			if j.Context == "" {
				w.bad[rejectedBy(j.Ref, j.Settings)] = true
			}
		}
		w.disk = e.Record
	case rollout.Check:
		if w.bad[rejectedBy(e.Ref, e.Settings)] {
			w.fail("invariant 5: %v was rejected and is tried again", e)
		}
		// What was not offered is that of the last known good.
		lkg := w.m.Record().LastKnownGood
		if e.Settings == "" && e.Ref.Values != lkg.Values || e.Settings != "" && (e.Ref.Digest != lkg.Digest || e.Ref.Hash != lkg.Hash) {
			w.fail("%v is tried while %v is the last known good", e, lkg)
		}
		w.needs(e.Ref)
		w.checks = append(w.checks, e.Ref)
	case rollout.Trigger:
		w.reload = true
	case rollout.Serve:
		lower := e.Ref.IsZero() || slices.ContainsFunc(w.disk.Earlier, func(r remoteconfig.Ref) bool { return pairOf(r) == pairOf(e.Ref) })
		if c := w.disk.Candidate; !lower && pairOf(e.Ref) != pairOf(w.disk.LastKnownGood) && (c == nil || pairOf(e.Ref) != pairOf(c.Ref)) {
			w.fail("invariants 4 and 6: %v is served and not on disk", e.Ref)
		}
		w.needs(e.Ref)
		if w.answer != nil && !w.diskBad {
			w.fail("obligation 6: a second answer")
		}
		w.answer = &e
		if !e.Ref.IsZero() && w.crashAfter >= 0 && w.r.IntN(50) == 0 {
			w.answer = nil
			w.do(rollout.Unusable{Ref: e.Ref, Reason: "input/output error"})
		}
	case rollout.Report:
		if e.Status.State == rollout.StatusApplied && !w.diskBad && w.disk.LastKnownGood.Hash != e.Status.Hash {
			w.fail("APPLIED %s is reported while %v is the last known good on disk", e.Status.Hash, w.disk.LastKnownGood)
		}
		if e.Status.Hash == "" && e.Status.State != rollout.StatusUnset {
			w.fail("invariant 7: %s is reported without a hash", e.Status.State)
		}
		if e.Status.Hash != "" && strings.HasPrefix(e.Status.Hash, "s") {
			w.fail("invariant 7: settings are reported as a remote configuration")
		}
		w.told = e.Status
	case rollout.ReportSettings:
		if applied := w.disk.Applied; e.Status.State == rollout.StatusApplied && !w.diskBad &&
			(applied.Hash != e.Status.Hash || applied.Values != w.disk.LastKnownGood.Values) {
			w.fail("APPLIED %s is reported while %v is the last known good on disk, with the values of %v", e.Status.Hash, w.disk.LastKnownGood, applied)
		}
		if !strings.HasPrefix(e.Status.Hash, "s") && e.Status != (rollout.Status{}) {
			w.fail("invariant 7: %v is reported of settings", e.Status)
		}
		w.toldSettings = e.Status
	case rollout.StartTimer:
		w.timers[e.ID] = e.Timer
	case rollout.Restart:
		w.safe = e.SafeMode
		panic(crash{})
	case rollout.Moved:
	}
}

// needs fails if what ref names might be removed from the folder.
func (w *world) needs(ref remoteconfig.Ref) {
	for _, digest := range []string{ref.Digest, ref.Values} {
		if digest != "" && !slices.Contains(w.m.Digests(), digest) {
			w.fail("%q of %v is not among the digests that are kept", digest, ref)
		}
	}
}

// offer offers the newest of each kind.
func (w *world) offer() {
	if w.newest.Digest != "" {
		w.do(rollout.Offered{Ref: w.newest, Context: "c"})
	}
	if w.newestSettings.Hash != "" {
		w.do(w.newestSettings)
	}
}

func (w *world) boot() {
	w.m = rollout.New()
	w.timers = map[uint64]rollout.Timer{}
	w.checks, w.reload, w.up, w.told, w.toldSettings = nil, false, 0, rollout.Status{}, rollout.Status{}
	w.given = map[uint64]remoteconfig.Ref{}
	w.trace = append(w.trace, fmt.Sprintf("boot from %+v", w.disk))
	safe := w.safe
	w.safe = false
	w.do(rollout.Booted{Record: w.disk, BootID: "boot", SafeMode: safe, Managed: true})
	w.retrieve(false)
}

func (w *world) retrieve(partial bool) {
	w.reload = false
	w.answer = nil
	w.do(rollout.Retrieve{Partial: partial, Managed: true})
	if w.answer == nil {
		w.fail("obligation 6: no answer")
	}
	w.given[w.answer.Generation] = w.answer.Ref
}

// fullReload stops the service, retrieves, and starts what it was given; it may
// die on the way, as hosts do.
func (w *world) fullReload() {
	if w.up != 0 {
		w.do(rollout.NotReady{Generation: w.m.Instance()})
		w.up = 0
		w.retrieve(false)
	}
	w.do(rollout.Started{})
	if w.r.IntN(10) == 0 {
		w.do(rollout.ComponentStatus{Generation: w.m.Instance(), Key: "x", Component: "x", State: rollout.ComponentPermanent, Err: "boom"})
		if w.r.IntN(2) == 0 {
			panic(crash{}) // Start failed
		}
	}
	w.up = w.m.Instance()
	w.do(rollout.Ready{Generation: w.up})
	if w.r.IntN(5) == 0 {
		w.do(rollout.Ready{Generation: w.up - 1}) // late, of the former instance
	}
}

func (w *world) partialReload() {
	w.retrieve(true)
	switch w.r.IntN(3) {
	case 0: // more than receivers changed
		w.fullReload()
	case 1: // a receiver fails to start; the host falls back
		for _, s := range []rollout.ComponentState{rollout.ComponentStopping, rollout.ComponentStarting, rollout.ComponentPermanent} {
			w.do(rollout.ComponentStatus{Generation: w.m.Instance(), Key: "r", Component: "r", State: s, Err: "boom"})
		}
		w.fullReload()
	default:
		if w.r.IntN(2) == 0 { // what changes is only what is not used
			w.fire(rollout.SettleTimer)
			w.up = w.m.Instance()
			return
		}
		for _, s := range []rollout.ComponentState{rollout.ComponentStopping, rollout.ComponentStopped, rollout.ComponentStarting, rollout.ComponentRunning} {
			w.do(rollout.ComponentStatus{Generation: w.m.Instance(), Key: "r", Component: "r", State: s})
		}
		w.fire(rollout.QuietTimer)
		w.up = w.m.Instance()
	}
}

// fire lets one timer of a kind pass, the latest.
func (w *world) fire(kind rollout.Timer) {
	var latest uint64
	for id, k := range w.timers {
		if k == kind && id > latest {
			latest = id
		}
	}
	if latest == 0 {
		return
	}
	delete(w.timers, latest)
	if kind == rollout.TrialTimer && w.m.State() == rollout.Trial && w.up != 0 {
		w.proven[pairOf(w.m.Running())] = true
		if w.given[w.m.Generation()] != w.m.Running() {
			w.fail("invariant 3: the machine credits %v to a generation that was given %v", w.m.Running(), w.given[w.m.Generation()])
		}
	}
	w.do(rollout.TimerFired{ID: latest})
}

func (w *world) random() {
	switch w.r.IntN(16) {
	case 0, 1:
		letter := string(rune('a' + w.r.IntN(4)))
		w.newest = remoteconfig.Ref{Hash: fmt.Sprintf("%s%d", letter, w.r.IntN(2)), Digest: letter}
		w.do(rollout.Offered{Ref: w.newest, Context: "c"})
	case 14, 15:
		values := []string{"", "v", "w", "x"}[w.r.IntN(4)]
		w.newestSettings = rollout.SettingsOffered{Hash: fmt.Sprintf("s%s%d", values, w.r.IntN(2)), Values: values, Context: "c"}
		w.do(w.newestSettings)
	case 2, 3:
		w.answerCheck(w.r.IntN(4) == 0)
	case 4, 5:
		if w.reload {
			w.fullReload()
		}
	case 6:
		if w.r.IntN(3) == 0 {
			w.fullReload() // SIGHUP
		}
	case 7:
		if w.reload && w.up != 0 {
			w.partialReload()
		}
	case 8, 9:
		w.fire(rollout.TrialTimer)
	case 10:
		w.do(rollout.ComponentStatus{Generation: w.m.Instance(), Key: "y", Component: "y", State: rollout.ComponentPermanent, Err: "late boom"})
		if w.r.IntN(2) == 0 {
			w.do(rollout.ComponentStatus{Generation: w.m.Instance(), Key: "y", Component: "y", State: rollout.ComponentRunning})
		}
	case 12:
		if earlier := w.m.Record().Earlier; w.m.AtRest() && len(earlier) > 0 && w.r.IntN(3) == 0 {
			w.do(rollout.GoneBack{To: earlier[w.r.IntN(len(earlier))]})
			return
		}
		w.fire(rollout.ApplyTimer)
	case 13:
		if w.r.IntN(3) == 0 {
			clear(w.bad)
			w.do(rollout.Forgiven{})
			return
		}
		w.fire(rollout.DrainTimer)
	case 11:
		w.diskBad = w.r.IntN(4) == 0
		if w.r.IntN(20) == 0 {
			w.do(rollout.Stopping{})
			panic(crash{})
		}
	}
}

func (w *world) answerCheck(refuse bool) {
	if len(w.checks) == 0 {
		return
	}
	c := rollout.Checked{Ref: w.checks[0], Context: "c"}
	w.checks = w.checks[1:]
	if refuse {
		c.Reason = "refused"
	}
	w.do(c)
}

// alive runs f and reports whether the process survived it.
func alive(f func()) (survived bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(crash); !ok {
				panic(p)
			}
			survived = false
		}
	}()
	f()
	return true
}

// settle lets everything that is under way end well, and checks that the newest
// offer was not lost.
func (w *world) settle() {
	w.diskBad, w.crashAfter = false, -1
	round := func() {
		w.answerCheck(false)
		if w.reload {
			w.do(rollout.NotReady{Generation: w.m.Instance()})
			w.retrieve(false)
			w.do(rollout.Started{})
			w.up = w.m.Instance()
			w.do(rollout.Ready{Generation: w.up})
		}
		w.fire(rollout.TrialTimer)
		w.fire(rollout.StableTimer)
	}
	for range 50 {
		if !alive(round) {
			// The process is replaced, to leave safe mode for example.
			w.startUp()
			w.offer()
		}
	}
	if w.m.State() != rollout.Idle {
		w.fail("the machine never comes to rest: %s", w.m.State())
	}
	// The server offers the newest again if it was told of another hash.
	r := w.m.Record()
	failed := func(s rollout.Status, hash string) bool { return s.Hash == hash && s.State == rollout.StatusFailed }
	if w.newest.Digest != "" && w.told.Hash == w.newest.Hash && !failed(r.Status, w.newest.Hash) &&
		(r.LastKnownGood.Digest != w.newest.Digest || r.LastKnownGood.Hash != w.newest.Hash) {
		w.fail("invariant 1: the newest offer %v is lost; last known good %v, status %+v", w.newest, r.LastKnownGood, r.Status)
	}
	if s := w.newestSettings; s.Hash != "" && w.toldSettings.Hash == s.Hash && !failed(r.Settings, s.Hash) &&
		(r.LastKnownGood.Values != s.Values || r.Settings != (rollout.Status{Hash: s.Hash, State: rollout.StatusApplied})) {
		w.fail("invariant 1: the newest settings %v are lost; last known good %v, status %+v", s, r.LastKnownGood, r.Settings)
	}
	if w.m.Running() != r.Serves(false) {
		w.fail("at rest %v runs and not %v", w.m.Running(), r.Serves(false))
	}
}

// startUp starts processes until one is up.
func (w *world) startUp() {
	for again := 0; !alive(func() { w.boot(); w.fullReload() }); again++ {
		if again > 30 {
			w.fail("no process comes up any more")
		}
	}
}

// TestInvariantsHoldForRandomLives lives many short lives: random events, a
// death of the process after every single effect, and a boot from what was on
// disk.
func TestInvariantsHoldForRandomLives(t *testing.T) {
	t.Parallel()
	lives := uint64(3000)
	if testing.Short() {
		lives = 300
	}
	for seed := range lives {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), proven: map[pair]bool{}, bad: map[rejected]bool{}, crashAfter: -1}
		w.trace = append(w.trace, fmt.Sprintf("seed %d", seed))
		for range 4 { // four processes in a row
			w.crashAfter = w.r.IntN(80)
			survived := alive(func() { w.boot(); w.fullReload() })
			for step := 0; survived && step < 60; step++ {
				survived = alive(w.random)
			}
			w.diskBad = false
		}
		w.crashAfter = -1
		w.startUp()
		w.offer()
		w.settle()
	}
}
