package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// loadReadOnly returns the rollout's record, or what is left of it. An error
// means that there is a record and that it cannot be read.
func (s *store) loadReadOnly() (rollout.Record, []loss, error) {
	r, err := s.generation(recordName)
	if err == nil {
		return r, nil, nil
	}
	if !lost(err) {
		return rollout.Record{}, nil, err
	}
	previousName := statedir.PreviousName(recordName)
	previous, previousErr := s.generation(previousName)
	switch {
	case previousErr == nil:
		return fromPrevious(previous), []loss{{"the rollout's record is damaged; using its previous generation: " + err.Error(), recordName, err}}, nil
	case !lost(previousErr):
		return rollout.Record{}, nil, previousErr
	case errors.Is(err, fs.ErrNotExist) && errors.Is(previousErr, fs.ErrNotExist):
		return rollout.Record{}, nil, nil // the first start
	default:
		consequence := "with all that was accepted and rejected; starting on the local configuration"
		r, ok := s.fromShown()
		if ok {
			consequence = fmt.Sprintf("taking what %q says: the last known good %s, and %d rejected after they were tried", stateName, r.LastKnownGood, len(r.Rejected))
		}
		return r, []loss{
			{"the rollout's record is lost, " + consequence + ": " + err.Error(), recordName, err},
			{"its previous generation is lost: " + previousErr.Error(), previousName, previousErr},
		}, nil
	}
}

// fromShown returns what an operator was shown last of a record that is lost. That
// has no checksum, so it is taken for no more than this: what ran may run, since
// its body has one, and what was tried and rejected is not tried again. A rejection
// before that depends on a context, and its dry run can be made again. It is not ok
// if there is nothing, or nothing that can be read.
func (s *store) fromShown() (r rollout.Record, ok bool) {
	data, err := s.dir.ReadText(stateName)
	if err != nil {
		return rollout.Record{}, false
	}
	var shown stateFile
	if err := json.Unmarshal(data, &shown); err != nil {
		return rollout.Record{}, false
	}
	if wellFormed(shown.LastKnownGood) {
		r.LastKnownGood = shown.LastKnownGood
		r.Earlier = slices.DeleteFunc(shown.Earlier, func(ref remoteconfig.Ref) bool { return !wellFormed(ref) })
	}
	r.Rejected = slices.DeleteFunc(shown.Rejected, func(j rollout.Rejection) bool { return j.Context != "" || !wellFormed(j.Ref) })
	if shown.Candidate != nil && wellFormed(shown.Candidate.Ref) {
		r.Candidate = shown.Candidate
	}
	r = fromPrevious(r)
	return r, !r.LastKnownGood.IsZero() || len(r.Rejected) > 0
}

// wellFormed reports whether ref can be that of an offer.
func wellFormed(ref remoteconfig.Ref) bool {
	_, err := hex.DecodeString(ref.Hash)
	return err == nil && (isDigest(ref.Digest) || ref.Digest == "" && isDigest(ref.Values)) && (ref.Values == "" || isDigest(ref.Values))
}

// fromPrevious returns what of a record's previous generation still holds. What
// became of a candidate stood in the record that was lost: it may have been
// rejected, so it is not run again.
func fromPrevious(r rollout.Record) rollout.Record {
	if r.Candidate != nil {
		r.Abandon("the record of what became of this configuration was damaged; to try it again, offer it under another hash")
	}
	r.Ladder.Starting = false // that start is over; how it ended is not known
	return r
}

func (s *store) generation(name string) (rollout.Record, error) {
	data, err := s.read(name)
	if err != nil {
		return rollout.Record{}, err
	}
	var r rollout.Record
	if err := json.Unmarshal(data, &r); err != nil {
		return rollout.Record{}, fmt.Errorf("decoding record %q: %w: %w", name, statedir.ErrCorrupt, err)
	}
	return r, nil
}
