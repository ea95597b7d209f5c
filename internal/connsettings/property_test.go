package connsettings_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// world is a disk, a session and servers that do as they like within the rules of
// Switch. It checks the invariants from outside, by a simpler account of its own.
type world struct {
	t     *testing.T
	r     *rand.Rand
	trace []string

	s       *connsettings.Switch
	disk    connsettings.SwitchRecord
	diskBad bool
	// session is what it uses; up says that there is one.
	session *connsettings.Connection
	up      bool
	timers  []uint64
	// proven are the connections over which a server has answered.
	proven []connsettings.Connection
	// boots counts the processes in a row that took up the same candidate.
	boots int
	// crashAfter is the number of effects until the process dies; -1 never.
	crashAfter int
}

type crash struct{}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}

func same(a, b *connsettings.Connection) bool {
	if a == nil || b == nil {
		return a == b
	}
	return connsettings.Equal(*a, *b)
}

// do gives the switch an event and performs its effects; it panics with crash when
// the process is to die.
func (w *world) do(event connsettings.SwitchEvent) {
	w.perform(event)
	if use := w.s.Use(); w.up && !same(w.session, use) {
		w.fail("invariant 1: the session uses %s, and Use is %s", show(w.session), show(use))
	}
	if c := w.s.Record().Candidate; c != nil && !same(c, w.disk.Candidate) {
		w.fail("invariant 3: %s is tried and not on disk", show(c))
	}
}

func (w *world) perform(event connsettings.SwitchEvent) {
	w.trace = append(w.trace, fmt.Sprintf("  %T%+v", event, event))
	for _, effect := range w.s.Step(event) {
		w.trace = append(w.trace, fmt.Sprintf("    %T%+v", effect, effect))
		switch e := effect.(type) {
		case connsettings.SwitchPersist:
			if w.diskBad {
				if e.Must {
					w.perform(connsettings.SwitchPersistFailed{Reason: "full"})
					return
				}
				continue
			}
			w.persist(e.Record)
		case connsettings.Connect:
			if c := w.s.Record().Candidate; c != nil && !same(c, w.disk.Candidate) {
				w.fail("invariant 3: connecting with %s, which is not on disk", show(c))
			}
			w.session = w.s.Use()
		case connsettings.StartVerifyTimer:
			w.timers = append(w.timers, e.ID)
		case connsettings.SwitchReport:
			w.report(e.Status)
		}
		if w.crashAfter == 0 {
			panic(crash{})
		}
		w.crashAfter--
	}
}

func (w *world) persist(r connsettings.SwitchRecord) {
	if r.Valid != nil && !w.isProven(*r.Valid) {
		w.fail("invariant 2: %s became valid without an answer", show(r.Valid))
	}
	if r.Candidate != nil && r.Candidate.Endpoint == "" && r.Candidate.Headers == nil {
		w.fail("an empty candidate")
	}
	if !same(r.Candidate, w.disk.Candidate) {
		w.boots = 0
	}
	w.disk = r
}

func (w *world) isProven(c connsettings.Connection) bool {
	for _, p := range w.proven {
		if connsettings.Equal(p, c) {
			return true
		}
	}
	return false
}

func (w *world) report(s connsettings.Status) {
	r := w.s.Record()
	switch s.State {
	case connsettings.StatusApplied:
		if r.Candidate != nil || r.ValidHash != s.Hash || r.Valid != nil && !w.isProven(*r.Valid) {
			w.fail("invariant 4: APPLIED %s is reported of %+v", s.Hash, r)
		}
		if w.up && !same(w.session, r.Valid) {
			w.fail("invariant 4: APPLIED %s is reported while the session uses %s", s.Hash, show(w.session))
		}
	case connsettings.StatusFailed:
		if r.Candidate != nil && r.CandidateHash == s.Hash {
			w.fail("invariant 4: FAILED %s is reported while it is tried", s.Hash)
		}
		if s.Message == "" {
			w.fail("FAILED without a reason")
		}
	case connsettings.StatusApplying:
		if r.Candidate == nil || r.CandidateHash != s.Hash {
			w.fail("APPLYING %s is reported of %+v", s.Hash, r)
		}
	case connsettings.StatusUnset:
	}
	if s != r.Status {
		w.fail("%+v is reported and %+v recorded", s, r.Status)
	}
}

func (w *world) boot() {
	w.trace = append(w.trace, fmt.Sprintf("boot from %+v", w.disk))
	w.s = connsettings.NewSwitch()
	w.session, w.up, w.timers = nil, false, nil
	data, err := json.Marshal(w.disk)
	require.NoError(w.t, err)
	var found connsettings.SwitchRecord
	require.NoError(w.t, json.Unmarshal(data, &found))
	w.do(connsettings.SwitchBooted{Record: found})
	use := w.s.Use()
	if !same(use, found.Valid) && !same(use, found.Candidate) {
		w.fail("invariant 7: %s is used after booting from %+v", show(use), found)
	}
	if w.s.Record().Candidate != nil {
		w.boots++
		if w.boots > 3 {
			w.fail("invariant 6: %d processes took up the same candidate", w.boots)
		}
	}
	w.session, w.up = use, true
}

func (w *world) offer() {
	offered := connsettings.SwitchOffered{
		Hash:       fmt.Sprintf("h%d", w.r.IntN(6)),
		Connection: connection([]string{"", "a", "b", "c"}[w.r.IntN(4)], []string{"", "1", "2"}[w.r.IntN(3)]),
	}
	r := w.s.Record()
	final := r.Status.State == connsettings.StatusApplied || r.Status.State == connsettings.StatusFailed
	known := final && r.Status.Hash == offered.Hash || r.Candidate != nil && r.CandidateHash == offered.Hash
	if r.Candidate == nil && !known {
		w.boots = 0 // it may be what an earlier process failed to forget
	}
	before := len(w.trace)
	w.do(offered)
	if known && len(w.trace) != before+1 {
		w.fail("invariant 5: %s is taken up again", offered.Hash)
	}
	if !known && len(w.trace) == before+1 {
		w.fail("%s is lost", offered.Hash)
	}
}

func (w *world) answer() {
	if w.session != nil {
		w.proven = append(w.proven, *w.session)
	}
	w.do(connsettings.Answered{})
	if r := w.s.Record(); r.Candidate != nil {
		w.fail("an answer is no verdict")
	}
}

func (w *world) random() {
	switch w.r.IntN(12) {
	case 0, 1, 2:
		w.offer()
	case 3, 4:
		w.answer()
	case 5:
		w.do(connsettings.Refused{Reason: "401", Certain: true})
		if w.s.Record().Candidate != nil {
			w.fail("what was refused for certain is still tried")
		}
	case 6:
		w.do(connsettings.Refused{Reason: "refused"})
		before := len(w.trace)
		w.do(connsettings.SwitchPersistFailed{Reason: "nothing had to be persisted"})
		if len(w.trace) != before+1 {
			w.fail("a failure to persist of which nobody was asked")
		}
	case 7:
		w.passTime()
	case 8:
		if len(w.timers) > 0 {
			w.do(connsettings.VerifyTimedOut{ID: w.timers[w.r.IntN(len(w.timers))]})
		}
	case 9:
		w.diskBad = w.r.IntN(3) == 0
	case 10:
		if w.r.IntN(4) == 0 {
			w.do(connsettings.Forget{})
			if w.s.Use() != nil {
				w.fail("what was forgotten is used")
			}
		}
	case 11:
		if w.r.IntN(4) == 0 {
			panic(crash{})
		}
	}
}

// passTime lets the time of all that is tried pass.
func (w *world) passTime() {
	for _, id := range w.timers {
		w.do(connsettings.VerifyTimedOut{ID: id})
	}
	w.timers = nil
	if c := w.s.Record().Candidate; c != nil {
		w.fail("invariant 6: all timers have fired and %s is still tried", show(c))
	}
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

// settle lets the time of all that is tried pass, and checks that a switch still
// does what it is for.
func (w *world) settle() {
	w.diskBad, w.crashAfter = false, -1
	w.boot()
	if w.r.IntN(2) == 0 {
		for range 3 { // processes that die at once
			w.boot()
		}
		if c := w.s.Record().Candidate; c != nil {
			w.fail("invariant 6: four processes have died of %s and it is still tried", show(c))
		}
	}
	w.passTime()
	r := w.s.Record()
	w.do(connsettings.SwitchOffered{Hash: "bad", Connection: connection("bad", "")})
	if len(w.timers) != 1 {
		w.fail("invariant 6: a candidate without a timer")
	}
	w.do(connsettings.VerifyTimedOut{ID: w.timers[0]})
	if !same(w.s.Use(), r.Valid) {
		w.fail("after a failure %s is used instead of %s", show(w.s.Use()), show(r.Valid))
	}
	w.do(connsettings.SwitchOffered{Hash: "good", Connection: connection("good", "9")})
	w.answer()
	if show(w.s.Use()) != "good(9)" || w.disk.Status != (connsettings.Status{Hash: "good", State: connsettings.StatusApplied}) {
		w.fail("a good offer is not applied: %+v", w.disk)
	}
}

// TestSwitchInvariantsHoldForRandomLives lives many short lives: random events, a
// death of the process after every single effect, and a boot from what was on disk.
func TestSwitchInvariantsHoldForRandomLives(t *testing.T) {
	t.Parallel()
	lives := uint64(5000)
	if testing.Short() {
		lives = 500
	}
	for seed := range lives {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1))}
		w.trace = append(w.trace, fmt.Sprintf("seed %d", seed))
		for range 6 { // more processes in a row than try one candidate
			w.crashAfter = w.r.IntN(40)
			survived := alive(w.boot)
			for step := 0; survived && step < 30; step++ {
				survived = alive(w.random)
			}
		}
		w.settle()
	}
}
