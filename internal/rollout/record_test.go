package rollout_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

// Whatever may still be needed is named, of both kinds: the rest is removed from the
// folder.
func TestDigestsNameBodiesAndValues(t *testing.T) {
	t.Parallel()
	r := rollout.Record{
		LastKnownGood: ref("A+v"),
		Earlier:       []remoteconfig.Ref{ref("A+u"), ref("none+w"), ref("B")},
		Candidate:     &rollout.Candidate{Ref: ref("A+x"), Settings: "s", Phase: rollout.PhasePending},
		Rejected:      []rollout.Rejection{{Ref: ref("C+y")}},
	}
	assert.ElementsMatch(t, []string{"body-a", "body-b", "u", "v", "w", "x"}, r.Digests())
	assert.Empty(t, rollout.Record{}.Digests(), "without offers nothing is needed")
	assert.Equal(t, ref("A+x"), r.Serves(false))

	m := rollout.New()
	m.Step(rollout.Booted{Record: rollout.Record{LastKnownGood: ref("A+v")}, Managed: true})
	m.Step(rollout.Retrieve{Managed: true})
	m.Step(rollout.Started{})
	m.Step(rollout.Ready{Generation: m.Generation()})
	m.Step(rollout.SettingsOffered{Hash: "s", Values: "w"})
	m.Step(rollout.SettingsOffered{Hash: "t", Values: "x"})
	m.Step(rollout.Offered{Ref: ref("B")})
	require.Equal(t, rollout.Checking, m.State())
	assert.ElementsMatch(t, []string{"body-a", "body-b", "v", "w", "x"}, m.Digests())
}

// A record of a version that knew no values is read, and one without values is
// written as it was then.
func TestRecordWithoutValuesIsThatOfFormerVersions(t *testing.T) {
	t.Parallel()
	const former = `{"last_known_good":{"hash":"a","digest":"body-a"},"earlier":[{"hash":"b","digest":"body-b"}],` +
		`"candidate":{"ref":{"hash":"c","digest":"body-c"},"phase":"ready"},` +
		`"rejected":[{"ref":{"hash":"d","digest":"body-d"},"reason":"boom"}],"status":{"hash":"c","state":"applying"}}`
	var r rollout.Record
	require.NoError(t, json.Unmarshal([]byte(former), &r))
	assert.Equal(t, rollout.Record{
		LastKnownGood: ref("A"),
		Earlier:       []remoteconfig.Ref{ref("B")},
		Candidate:     &rollout.Candidate{Ref: ref("C"), Phase: rollout.PhaseReady},
		Rejected:      []rollout.Rejection{{Ref: ref("D"), Reason: "boom"}},
		Status:        rollout.Status{Hash: "c", State: rollout.StatusApplying},
	}, r)
	again, err := json.Marshal(r)
	require.NoError(t, err)
	assert.JSONEq(t, former, string(again))
}

// The rejections of both kinds share one bound, and the oldest go.
func TestRejectionsOfBothKindsAreBounded(t *testing.T) {
	t.Parallel()
	const keep = 32
	r := rollout.Record{LastKnownGood: ref("A+v")}
	for i := range keep {
		r.Candidate = &rollout.Candidate{Ref: remoteconfig.Ref{Hash: strconv.Itoa(i), Digest: "body", Values: "v"}}
		r.Abandon("boom")
		r.Candidate = &rollout.Candidate{Ref: ref("A+w"), Settings: strconv.Itoa(i)}
		r.Abandon("boom")
	}
	require.Len(t, r.Rejected, keep)
	assert.Equal(t, strconv.Itoa(keep-1), r.Rejected[0].Settings)
	assert.Equal(t, strconv.Itoa(keep-1), r.Rejected[1].Ref.Hash)
	assert.False(t, slices.ContainsFunc(r.Rejected, func(j rollout.Rejection) bool { return j.Settings == "0" }))
	assert.Equal(t, rollout.Status{Hash: strconv.Itoa(keep - 1), State: rollout.StatusFailed, Message: "boom; running last known good a"}, r.Settings)
	assert.Equal(t, r.Settings, r.Status, "each kind was told of its own")

	// What is rejected again is no second entry.
	r.Candidate = &rollout.Candidate{Ref: remoteconfig.Ref{Hash: strconv.Itoa(keep - 1), Digest: "body", Values: "other"}}
	r.Abandon("again")
	require.Len(t, r.Rejected, keep)
	assert.Equal(t, "again", r.Rejected[0].Reason)
	assert.Equal(t, strconv.Itoa(keep-1), r.Rejected[1].Settings)
}
