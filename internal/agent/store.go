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

// loadReadOnly returns the rollout's record as it is on disk.
func (s *store) loadReadOnly() (rollout.Record, error) {
	data, err := s.read(recordName)
	if errors.Is(err, fs.ErrNotExist) {
		return rollout.Record{}, nil
	}
	if err != nil {
		return rollout.Record{}, err
	}
	var r rollout.Record
	if err := json.Unmarshal(data, &r); err != nil {
		return rollout.Record{}, fmt.Errorf("%w: %w", statedir.ErrCorrupt, err)
	}
	return r, nil
}

// load returns the rollout's record with everything in it that can be used. The
// notes say what was lost.
func (s *store) load() (r rollout.Record, notes []string) {
	r, err := s.loadReadOnly()
	if err != nil {
		return rollout.Record{}, append([]string{"the rollout's record is lost, starting on the local configuration: " + err.Error()}, s.aside(recordName, err)...)
	}
	if c := r.Candidate; c != nil {
		if _, err := s.body(c.Ref.Digest); err != nil {
			notes = append(notes, fmt.Sprintf("the candidate %s is lost: %v", c.Ref, err))
			notes = append(notes, s.aside(bodyName(c.Ref.Digest), err)...)
			r.Candidate, r.Status = nil, rollout.Status{} // the server offers it again
		}
	}
	r.Earlier = slices.DeleteFunc(r.Earlier, func(ref remoteconfig.Ref) bool {
		_, err := s.body(ref.Digest)
		return err != nil
	})
	if !r.LastKnownGood.IsZero() {
		if _, err := s.body(r.LastKnownGood.Digest); err != nil {
			notes = append(notes, fmt.Sprintf("the last known good %s is lost: %v", r.LastKnownGood, err))
			notes = append(notes, s.aside(bodyName(r.LastKnownGood.Digest), err)...)
			r.LastKnownGood, r.Status = remoteconfig.Ref{}, rollout.Status{}
			if len(r.Earlier) > 0 {
				r.LastKnownGood, r.Earlier = r.Earlier[0], r.Earlier[1:]
			}
			notes = append(notes, fmt.Sprintf("falling back to %s", r.LastKnownGood))
		}
	}
	return r, notes
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
	return s.write(recordName, append(data, '\n'))
}

func (s *store) body(digest string) (remoteconfig.Offer, error) {
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

// uid returns the instance UID that was saved, or saves made.
func (s *store) uid(made func() uuid.UUID) (uuid.UUID, error) {
	data, err := s.read(uidName)
	if err == nil {
		if id, parseErr := uuid.ParseBytes(data); parseErr == nil {
			return id, nil
		}
		err = fmt.Errorf("%w: not a UUID", statedir.ErrCorrupt)
	}
	id := made()
	if errors.Is(err, statedir.ErrCorrupt) {
		s.aside(uidName, err)
	}
	return id, s.write(uidName, []byte(id.String()))
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

func (s *store) saveTimes(times Rollout) error {
	data, err := json.Marshal(times)
	if err != nil {
		return fmt.Errorf("encoding the durations of a rollout: %w", err)
	}
	return s.write(timesName, data)
}

// safeName holds the blocks that a process in safe mode runs.
const safeName = "safe_mode"

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
		"service":    map[string]any{"extensions": ids},
	}
}
