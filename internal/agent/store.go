package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// The records in the state folder.
const (
	recordName   = "rollout"
	bodiesFolder = "bodies"
	uidName      = "instance_uid"
	// safeName holds the blocks that a process in safe mode runs.
	safeName     = "safe_mode"
	requiredName = "required_extensions"
	timesName    = "rollout_times"
	// crashName is written by the Go runtime, so it has no checksum.
	crashName = "crash"
)

// store reads and writes the agent's records. Its methods work on a nil store,
// that is without a folder: reading finds nothing and writing fails.
type store struct{ dir *statedir.Dir }

// errNoFolder is why an agent without a folder cannot save anything.
var errNoFolder = errors.New("there is no usable state folder")

func bodyName(digest string) string { return bodiesFolder + "/" + digest }

// lost reports whether err, of reading something, means that it is not there or
// not what was written. Any other error says nothing about the content: what
// could not be read may be read another time, and must be left alone.
func lost(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, statedir.ErrCorrupt)
}

// loss is what was found to be lost.
type loss struct {
	note string
	name string // the record to move aside
	err  error
}

// load returns the rollout's record with everything in it that can be used, and
// moves aside what is damaged. The notes say what was lost. An error means that
// the record, or a configuration that is to run, is there and cannot be read: the
// folder must not be written then, because what is written would replace it.
func (s *store) load(bootID string) (rollout.Record, []string, error) {
	if s == nil {
		return rollout.Record{}, nil, nil
	}
	r, losses, err := s.loadReadOnly()
	if err != nil {
		return rollout.Record{}, nil, err
	}
	if previous := statedir.PreviousName(recordName); len(losses) == 0 {
		if _, err := s.generation(previous); errors.Is(err, statedir.ErrCorrupt) {
			losses = append(losses, loss{"the previous generation of the rollout's record is lost: " + err.Error(), previous, err})
		}
	}
	for _, f := range []func(*rollout.Record, string) ([]loss, error){s.checkCandidate, s.checkEarlier, s.checkLastKnownGood} {
		more, err := f(&r, bootID)
		if err != nil {
			return rollout.Record{}, nil, err
		}
		losses = append(losses, more...)
	}
	for _, small := range []struct {
		name, consequence string
		valid             func([]byte) error
	}{
		{uidName, "the saved instance UID is lost: to the server this will be another agent, unless its configuration has an instance_uid", validUID},
		{requiredName, "the list of required extensions is lost; it is written again when this extension starts", func([]byte) error { return nil }},
		{timesName, "the durations of a rollout are lost; the defaults hold until this extension starts", validTimes},
		{safeName, "the configuration for safe mode is lost; there is none until everything has started once more", validSafe},
	} {
		data, err := s.read(small.name)
		if err == nil {
			err = small.valid(data)
		}
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist):
		case lost(err):
			losses = append(losses, loss{small.consequence + ": " + err.Error(), small.name, err})
		default:
			// No reason not to run what was accepted. The instance UID is not
			// written over; the others are derived anew in any case.
			losses = append(losses, loss{"for now, " + small.consequence + ": " + err.Error(), small.name, err})
		}
	}
	var notes []string
	moved := map[string]bool{} // two references may share a body
	for _, l := range losses {
		notes = append(notes, l.note)
		if !moved[l.name] {
			notes = append(notes, s.aside(l.name, l.err)...)
		}
		moved[l.name] = true
	}
	return r, notes, nil
}

// checkCandidate drops a candidate whose body is lost.
func (s *store) checkCandidate(r *rollout.Record, bootID string) ([]loss, error) {
	c := r.Candidate
	if c == nil || c.Settings != "" && c.Ref.IsZero() { // that all values are withdrawn needs no body
		return nil, nil
	}
	name, err := s.damaged(c.Ref)
	if err == nil {
		return nil, nil
	}
	if !lost(err) {
		return nil, err
	}
	if ran := c.Phase != rollout.PhasePending && c.Phase != rollout.PhaseTriggered; ran && c.BootID == bootID {
		// The process died in its trial, for which no body is needed.
		reason := "the process ended while this configuration was in trial (phase " + string(c.Phase) + "), and its body was lost"
		if c.Evidence != "" {
			reason += "; before that: " + c.Evidence
		}
		r.Abandon(reason)
	} else {
		// The server offers it again.
		if c.Settings != "" {
			r.Settings = rollout.Status{}
		} else {
			r.Status = rollout.Status{}
		}
		r.Candidate = nil
	}
	return []loss{{fmt.Sprintf("the candidate %s is lost: %v", c.Ref, err), name, err}}, nil
}

// checkEarlier drops the earlier known goods whose bodies are lost. One that
// cannot be read stays: it is not needed now.
func (s *store) checkEarlier(r *rollout.Record, _ string) (losses []loss, _ error) {
	r.Earlier = slices.DeleteFunc(r.Earlier, func(ref remoteconfig.Ref) bool {
		name, err := s.damaged(ref)
		if err == nil || !lost(err) {
			return false
		}
		losses = append(losses, loss{fmt.Sprintf("the earlier known good %s is lost: %v", ref, err), name, err})
		return true
	})
	return losses, nil
}

// checkLastKnownGood replaces a last known good whose body is lost by the latest
// earlier one.
func (s *store) checkLastKnownGood(r *rollout.Record, _ string) ([]loss, error) {
	if r.LastKnownGood.IsZero() {
		return nil, nil
	}
	name, err := s.damaged(r.LastKnownGood)
	if err == nil {
		return nil, nil
	}
	if !lost(err) {
		return nil, err
	}
	former := r.LastKnownGood
	r.LastKnownGood, r.Status = remoteconfig.Ref{}, rollout.Status{}
	if len(r.Earlier) > 0 {
		if err := s.bodyOf(r.Earlier[0]); err != nil {
			return nil, err
		}
		r.LastKnownGood, r.Earlier = r.Earlier[0], r.Earlier[1:]
	}
	if r.LastKnownGood.Values != former.Values {
		r.Settings = rollout.Status{}
	}
	return []loss{{fmt.Sprintf("the last known good %s is lost; falling back to %s: %v", former, r.LastKnownGood, err), name, err}}, nil
}

// aside moves a corrupt record out of the way.
func (s *store) aside(name string, err error) []string {
	if s == nil || !errors.Is(err, statedir.ErrCorrupt) {
		return nil
	}
	to, err := s.dir.MoveAside(name)
	if err != nil {
		return []string{err.Error()}
	}
	return []string{fmt.Sprintf("the damaged record is kept as %q", to)}
}

func (s *store) read(name string) ([]byte, error) {
	if s == nil {
		return nil, fs.ErrNotExist
	}
	return s.dir.Read(name)
}

func (s *store) write(name string, data []byte) error {
	if s == nil {
		return errNoFolder
	}
	return s.dir.Write(name, data)
}

func (s *store) save(r rollout.Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the rollout's record: %w", err)
	}
	if s == nil {
		return errNoFolder
	}
	// The one record with a previous generation: nothing else knows what was
	// accepted and what was rejected. Bodies are never overwritten, the instance
	// UID is written once, and the others are written anew at the next start.
	return s.dir.Replace(recordName, append(data, '\n'))
}

// digestLength is that of a SHA-256 in hexadecimal.
const digestLength = 64

// isDigest reports whether s can name a body; a record can hold anything.
func isDigest(s string) bool {
	return len(s) == digestLength && strings.Trim(s, "0123456789abcdef") == ""
}

func (s *store) body(digest string) (remoteconfig.Offer, error) {
	if !isDigest(digest) {
		return remoteconfig.Offer{}, fmt.Errorf("looking for the configuration %q, which is not a digest: %w", digest, fs.ErrNotExist)
	}
	data, err := s.read(bodyName(digest))
	if err != nil {
		return remoteconfig.Offer{}, err
	}
	offer, err := remoteconfig.Decode(data, digest)
	if err != nil {
		return remoteconfig.Offer{}, fmt.Errorf("%w: %w", statedir.ErrCorrupt, err)
	}
	return offer, nil
}

// bodyOf returns why what ref needs cannot be read: its body, if it has a remote
// configuration, or its values.
func (s *store) bodyOf(ref remoteconfig.Ref) error {
	_, err := s.damaged(ref)
	return err
}

// damaged is bodyOf with the name of the record that cannot be read.
func (s *store) damaged(ref remoteconfig.Ref) (string, error) {
	if ref.Hash != "" || ref.Digest != "" || ref.Values == "" { // not values alone
		if _, err := s.body(ref.Digest); err != nil {
			return bodyName(ref.Digest), err
		}
	}
	_, err := s.values(ref.Values)
	return bodyName(ref.Values), err
}

func (s *store) saveBody(offer remoteconfig.Offer) error {
	digest := offer.Ref().Digest
	if _, err := s.body(digest); err == nil {
		return nil // durable already, under whatever hash
	}
	data, err := offer.Encode()
	if err != nil {
		return err
	}
	return s.write(bodyName(digest), data)
}

// keepBodies removes the bodies that are not among digests. Bodies that were
// moved aside stay.
func (s *store) keepBodies(digests []string) error {
	if s == nil {
		return nil
	}
	names, err := s.dir.List(bodiesFolder)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if !slices.Contains(digests, name) && !strings.Contains(name, ".") {
			errs = append(errs, s.dir.Remove(bodyName(name)))
		}
	}
	return errors.Join(errs...)
}

// savedUID returns the instance UID that was saved.
func (s *store) savedUID() (uuid.UUID, error) {
	data, err := s.read(uidName)
	if err == nil {
		err = validUID(data)
	}
	if err != nil {
		return uuid.Nil, err
	}
	return uuid.ParseBytes(data)
}

func validUID(data []byte) error {
	if _, err := uuid.ParseBytes(data); err != nil {
		return fmt.Errorf("reading record %q: %w: %w", uidName, statedir.ErrCorrupt, err)
	}
	return nil
}

func (s *store) saveUID(id uuid.UUID) error { return s.write(uidName, []byte(id.String())) }

// uid returns the instance UID that was saved, or saves made.
func (s *store) uid(made func() uuid.UUID) (uuid.UUID, error) {
	id, err := s.savedUID()
	if err == nil {
		return id, nil
	}
	id = made()
	if !lost(err) {
		return id, err
	}
	s.aside(uidName, err)
	return id, s.saveUID(id)
}

// required returns the names of the extensions without which this one does not
// start.
func (s *store) required() []string {
	data, err := s.read(requiredName)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func (s *store) saveRequired(ids []string) error {
	return s.write(requiredName, []byte(strings.Join(ids, "\n")))
}

// times returns the durations of a rollout that the last extension was configured
// with: a process needs them before it has an extension.
func (s *store) times() (Rollout, bool) {
	data, err := s.read(timesName)
	if err != nil {
		return Rollout{}, false
	}
	var times Rollout
	return times, json.Unmarshal(data, &times) == nil
}

func validTimes(data []byte) error {
	if err := json.Unmarshal(data, new(Rollout)); err != nil {
		return fmt.Errorf("decoding the durations of a rollout: %w: %w", statedir.ErrCorrupt, err)
	}
	return nil
}

func (s *store) saveTimes(times Rollout) error {
	data, err := json.Marshal(times)
	if err != nil {
		return fmt.Errorf("encoding the durations of a rollout: %w", err)
	}
	return s.write(timesName, data)
}

func (s *store) saveSafe(blocks safeBlocks) error {
	data, err := json.Marshal(blocks)
	if err != nil {
		return fmt.Errorf("encoding the configuration for safe mode: %w", err)
	}
	if former, err := s.read(safeName); err == nil && bytes.Equal(former, data) {
		return nil
	}
	return s.write(safeName, data)
}

func validSafe(data []byte) error {
	var blocks safeBlocks
	if err := json.Unmarshal(data, &blocks); err != nil {
		return fmt.Errorf("decoding record %q: %w: %w", safeName, statedir.ErrCorrupt, err)
	}
	return nil
}

// safe returns the configuration of a process in safe mode; empty if there is
// none.
func (s *store) safe() map[string]any {
	data, err := s.read(safeName)
	if err != nil {
		return map[string]any{}
	}
	var blocks safeBlocks
	if err := json.Unmarshal(data, &blocks); err != nil || len(blocks) == 0 {
		return map[string]any{}
	}
	ids := make([]any, 0, len(blocks))
	for _, id := range slices.Sorted(maps.Keys(blocks)) {
		ids = append(ids, id)
	}
	return map[string]any{
		"extensions": map[string]any(blocks),
		"service": map[string]any{
			"extensions": ids,
			// By default the Collector's own metrics need a port, which may be taken.
			"telemetry": map[string]any{"metrics": map[string]any{"level": "none"}},
		},
	}
}
