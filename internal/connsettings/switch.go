package connsettings

import (
	"fmt"
	"strings"
)

// Status is what the server is told about the settings of the OpAMP connection.
type Status struct {
	// Hash is the server's hash of the offer in hexadecimal; empty if none was
	// taken up.
	Hash  string      `json:"hash"`
	State StatusState `json:"state"`
	// Message is the reason of a failure, empty otherwise.
	Message string `json:"message,omitempty"`
}

// StatusState is the state part of a [Status].
type StatusState string

// The states of the protocol (specification, ConnectionSettingsStatus).
const (
	StatusUnset    StatusState = ""
	StatusApplying StatusState = "applying"
	StatusApplied  StatusState = "applied"
	StatusFailed   StatusState = "failed"
)

// final reports whether nothing more is to come for the hash.
func (s Status) final() bool { return s.State == StatusApplied || s.State == StatusFailed }

// SwitchRecord is all of a [Switch] that must survive the process. The zero
// SwitchRecord is that of an agent whose connection was never changed by a server. It
// holds secrets.
type SwitchRecord struct {
	// Valid is the latest connection over which a server has answered; nil for the
	// local settings.
	Valid     *Connection `json:"valid,omitempty"`
	ValidHash string      `json:"valid_hash,omitempty"`
	// Candidate is what is being tried; nil if nothing is.
	Candidate     *Connection `json:"candidate,omitempty"`
	CandidateHash string      `json:"candidate_hash,omitempty"`
	// Boots counts the processes that have found the candidate here.
	Boots int `json:"boots,omitempty"`
	// Status is what the server was told last.
	Status Status `json:"status,omitzero"`
}

// maxBoots is how many processes may find a candidate and try it again: as often may
// one end for another reason. With the process that got the offer and the one that
// gives it up these are the five starts that systemd allows in a row.
const maxBoots = 3

// Switch decides which settings the connection to the OpAMP server uses. An offer
// becomes the candidate; the candidate is tried; once a server has answered over it,
// it is valid, and otherwise what was used before is used again.
//
// A Switch has no clock and no I/O. Its owner calls [Switch.Step] with one
// [SwitchEvent] at a time and performs the returned [SwitchEffect]s in their order:
//
//   - The first event is [SwitchBooted]. Its effects come before the first session,
//     which uses [Switch.Use] without being asked to by [Connect].
//   - If a [SwitchPersist] that is marked Must fails, the remaining effects of that
//     step are dropped, and [SwitchPersistFailed] is the next event.
//   - [Answered] and [Refused] come only from the session that uses Use, and not from
//     one that a Connect has replaced.
//   - After [StartVerifyTimer], [VerifyTimedOut] comes back with the same ID once the
//     time has passed. Late ones are ignored.
//
// Invariants:
//
//  1. There is always something to use: after each step the session uses Use, which
//     is the candidate, what is valid, or the local settings (nil).
//  2. Valid only ever becomes what a server has answered over, or nil by [Forget].
//  3. Nothing is tried that is not in a persisted record.
//  4. A status is final only for what is in use and valid (applied), or for what is
//     not in use any more (failed).
//  5. A hash whose status is final, or which is being tried, is not taken up again.
//  6. A candidate always has a timer, and at most one process more than maxBoots tries
//     it: no candidate stays one for ever.
//  7. A process that boots from any record that was persisted uses the candidate in
//     it or what was valid.
type Switch struct {
	record SwitchRecord
	// timer is the ID of the timer that counts; timers is the latest ID.
	timer, timers uint64
	// trouble is why the latest attempt with the candidate failed.
	trouble string
	// before is where the switch goes back to if the Persist of this step fails; nil
	// if there was none that must succeed.
	before *before

	effects []SwitchEffect
}

// before is a former state of a [Switch].
type before struct {
	record  SwitchRecord
	timer   uint64
	trouble string
}

// NewSwitch returns a switch that waits for [SwitchBooted].
func NewSwitch() *Switch { return &Switch{} }

// Record returns the record as it should be on disk. It shares the connections with
// the switch; they must not be modified.
func (s *Switch) Record() SwitchRecord { return s.record }

// Use returns the settings that the session must use now: the candidate's, the valid
// ones, or nil for the local settings. What no offer has set is unset in it. It must
// not be modified.
func (s *Switch) Use() *Connection {
	if s.record.Candidate != nil {
		return s.record.Candidate
	}
	return s.record.Valid
}

// Step takes one event and returns what to do, in order. The caller owns the result,
// but not the connections in it.
func (s *Switch) Step(event SwitchEvent) []SwitchEffect {
	s.effects = nil
	former := s.before
	s.before = nil
	switch e := event.(type) {
	case SwitchBooted:
		s.booted(e)
	case SwitchOffered:
		s.offered(e)
	case Answered:
		s.answered()
	case Refused:
		s.refused(e)
	case VerifyTimedOut:
		s.timedOut(e)
	case SwitchPersistFailed:
		s.persistFailed(e, former)
	case Forget:
		s.forget()
	}
	return s.effects
}

func (s *Switch) do(e SwitchEffect) { s.effects = append(s.effects, e) }

func (s *Switch) persist() { s.do(SwitchPersist{Record: s.record}) }

// persistOr persists the record, without which nothing that follows is done, and the
// switch goes back to b.
func (s *Switch) persistOr(b before) {
	s.before = &b
	s.do(SwitchPersist{Record: s.record, Must: true})
}

func (s *Switch) startTimer() {
	s.timers++
	s.timer = s.timers
	s.do(StartVerifyTimer{ID: s.timer})
}

// drop makes the candidate none.
func (r *SwitchRecord) drop() { r.Candidate, r.CandidateHash, r.Boots = nil, "", 0 }

func (s *Switch) booted(e SwitchBooted) {
	s.record = e.Record
	if s.record.Candidate == nil {
		return
	}
	if s.record.Boots >= maxBoots {
		s.revert(fmt.Sprintf("%d processes in a row have ended before a server answered", maxBoots+1))
		return
	}
	without := s.record
	without.drop()
	s.record.Boots++
	s.record.Status = Status{Hash: s.record.CandidateHash, State: StatusApplying}
	// Without the count a candidate of which the process dies would be tried for ever.
	s.persistOr(before{record: without})
	s.startTimer()
}

func (s *Switch) offered(e SwitchOffered) {
	r := &s.record
	if r.Status.final() && r.Status.Hash == e.Hash || r.Candidate != nil && r.CandidateHash == e.Hash {
		return
	}
	// What the offer leaves unset stays as it was proven to work, not as it is in a
	// candidate that it replaces.
	valid := Connection{}
	if r.Valid != nil {
		valid = *r.Valid
	}
	merged := e.Connection.Over(valid)
	switch {
	case Equal(merged, valid):
		trying := r.Candidate != nil
		r.drop()
		r.ValidHash = e.Hash
		r.Status = Status{Hash: e.Hash, State: StatusApplied}
		s.persist()
		if trying {
			s.connectAgain()
		}
		s.do(SwitchReport{Status: r.Status})
	case r.Candidate != nil && Equal(merged, *r.Candidate):
		// It is being tried already, under another hash.
		r.CandidateHash = e.Hash
		r.Status = Status{Hash: e.Hash, State: StatusApplying}
		s.persist()
		s.do(SwitchReport{Status: r.Status})
	default:
		former := before{record: *r, timer: s.timer, trouble: s.trouble}
		r.Candidate, r.CandidateHash, r.Boots = &merged, e.Hash, 0
		r.Status = Status{Hash: e.Hash, State: StatusApplying}
		s.trouble = ""
		s.persistOr(former)
		s.do(SwitchReport{Status: r.Status}) // while the server before can still hear it
		s.do(Connect{})
		s.startTimer()
	}
}

// connectAgain replaces the session by one with what is valid.
func (s *Switch) connectAgain() {
	s.timer, s.trouble = 0, ""
	s.do(Connect{})
}

func (s *Switch) answered() {
	r := &s.record
	if r.Candidate == nil {
		return
	}
	r.Valid, r.ValidHash = r.Candidate, r.CandidateHash
	r.drop()
	r.Status = Status{Hash: r.ValidHash, State: StatusApplied}
	s.timer, s.trouble = 0, ""
	// A disk that is full now is no reason to leave a connection that works: the next
	// process finds the candidate and tries it again.
	s.persist()
	s.do(SwitchReport{Status: r.Status})
}

func (s *Switch) refused(e Refused) {
	if s.record.Candidate == nil {
		return // what has worked once is not given up for trouble later on
	}
	if e.Certain {
		s.fail(e.Reason)
		return
	}
	s.trouble = e.Reason
}

func (s *Switch) timedOut(e VerifyTimedOut) {
	if s.record.Candidate == nil || e.ID != s.timer {
		return
	}
	reason := "no server has answered in time"
	if s.trouble != "" {
		reason += "; the latest attempt: " + s.trouble
	}
	s.fail(reason)
}

// fail gives up a candidate that the session uses.
func (s *Switch) fail(reason string) {
	hash := s.record.CandidateHash
	s.record.drop()
	s.record.Status = s.failed(hash, reason)
	s.persist()
	s.connectAgain()
	s.do(SwitchReport{Status: s.record.Status})
}

// revert gives up a candidate that no session uses.
func (s *Switch) revert(reason string) {
	hash := s.record.CandidateHash
	s.record.drop()
	s.record.Status = s.failed(hash, reason)
	s.persist()
	s.do(SwitchReport{Status: s.record.Status})
}

// failed returns the status of an offer that is not used, and what is used instead.
func (s *Switch) failed(hash, reason string) Status {
	text := "opamp: " + strings.TrimSpace(reason) + "; "
	switch {
	case s.record.Candidate != nil:
		text += "still trying the settings " + s.record.CandidateHash
	case s.record.Valid != nil:
		text += "using the settings " + s.record.ValidHash
	default:
		text += "using the local settings"
	}
	return Status{Hash: hash, State: StatusFailed, Message: text}
}

func (s *Switch) persistFailed(e SwitchPersistFailed, former *before) {
	if former == nil {
		return
	}
	hash := s.record.CandidateHash
	s.record, s.timer, s.trouble = former.record, former.timer, former.trouble
	s.record.Status = s.failed(hash, "saving the offered settings: "+e.Reason)
	s.persist() // once it is possible, so that the next process knows too
	s.do(SwitchReport{Status: s.record.Status})
}

func (s *Switch) forget() {
	if s.record == (SwitchRecord{}) {
		return
	}
	connected := s.Use() != nil
	s.record = SwitchRecord{}
	s.timer, s.trouble = 0, ""
	s.persist()
	if connected {
		s.do(Connect{})
	}
	s.do(SwitchReport{})
}
