package health_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pipeline"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
)

// Conformance: 52, 53, 54, E6
func TestTree(t *testing.T) {
	t.Parallel()
	traces := pipeline.NewID(pipeline.SignalTraces)
	otlp := componentstatus.NewInstanceID(component.MustNewID("otlp"), component.KindReceiver, traces)
	debug := componentstatus.NewInstanceID(component.MustNewID("debug"), component.KindExporter, traces)
	zpages := componentstatus.NewInstanceID(component.MustNewID("zpages"), component.KindExtension)
	tree := health.NewTree()
	for _, source := range []*componentstatus.InstanceID{otlp, debug, zpages} {
		tree.Record(source, componentstatus.NewEvent(componentstatus.StatusStarting))
		tree.Record(source, componentstatus.NewEvent(componentstatus.StatusOK))
	}
	started := time.Now()
	root, again := tree.Root(started, started)
	assert.Zero(t, again)
	assert.True(t, root.Healthy)
	assert.Equal(t, "StatusOK", root.Status)
	assert.Equal(t, started, root.Started)
	assert.Len(t, root.Parts, 2)
	assert.True(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Healthy)
	assert.False(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Started.IsZero())
	assert.False(t, root.Parts["pipeline:traces"].Started.IsZero())
	assert.True(t, root.Parts["extensions"].Parts["extension:zpages"].Healthy)

	tree.Record(debug, componentstatus.NewPermanentErrorEvent(errors.New("boom")))
	root, _ = tree.Root(started, started)
	assert.False(t, root.Healthy)
	assert.Equal(t, "boom", root.LastError)
	assert.Equal(t, "boom", root.Parts["pipeline:traces"].LastError)
	assert.True(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Healthy)
	assert.Equal(t, "StatusPermanentError", root.Parts["pipeline:traces"].Parts["exporter:debug"].Status)

	tree.Record(otlp, componentstatus.NewEvent(componentstatus.StatusStopped))
	root, _ = tree.Root(started, started)
	assert.NotContains(t, root.Parts["pipeline:traces"].Parts, "receiver:otlp", "not running: no part")
}

// A recoverable error is shown when it has lasted; one that is over before is
// never shown, and one that keeps coming is.
//
// Conformance: E5
func TestRecoverableErrorsAreDamped(t *testing.T) {
	t.Parallel()
	otlp := componentstatus.NewInstanceID(component.MustNewID("otlp"), component.KindReceiver, pipeline.NewID(pipeline.SignalTraces))
	tree := health.NewTree()
	tree.Record(otlp, componentstatus.NewEvent(componentstatus.StatusOK))
	began := time.Now()
	tree.Record(otlp, componentstatus.NewRecoverableErrorEvent(errors.New("no route")))
	root, again := tree.Root(began, began.Add(health.Damping/2))
	assert.True(t, root.Healthy)
	assert.False(t, again.IsZero(), "it is to be looked at again")
	tree.Record(otlp, componentstatus.NewRecoverableErrorEvent(errors.New("no route, again")))
	root, again = tree.Root(began, began.Add(2*health.Damping))
	assert.False(t, root.Healthy, "counted from the first one")
	assert.Equal(t, "no route, again", root.LastError)
	assert.Zero(t, again)

	tree.Record(otlp, componentstatus.NewEvent(componentstatus.StatusOK))
	root, again = tree.Root(began, time.Now())
	assert.True(t, root.Healthy)
	assert.Zero(t, again)

	tree.Record(otlp, componentstatus.NewPermanentErrorEvent(errors.New("no account")))
	root, _ = tree.Root(began, time.Now())
	assert.False(t, root.Healthy, "what does not recover is shown at once")
}
