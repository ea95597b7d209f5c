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
	root := tree.Root(started)
	assert.True(t, root.Healthy)
	assert.Equal(t, "StatusOK", root.Status)
	assert.Equal(t, started, root.Started)
	assert.Len(t, root.Parts, 2)
	assert.True(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Healthy)
	assert.False(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Started.IsZero())
	assert.False(t, root.Parts["pipeline:traces"].Started.IsZero())
	assert.True(t, root.Parts["extensions"].Parts["extension:zpages"].Healthy)

	tree.Record(debug, componentstatus.NewPermanentErrorEvent(errors.New("boom")))
	root = tree.Root(started)
	assert.False(t, root.Healthy)
	assert.Equal(t, "boom", root.LastError)
	assert.Equal(t, "boom", root.Parts["pipeline:traces"].LastError)
	assert.True(t, root.Parts["pipeline:traces"].Parts["receiver:otlp"].Healthy)
	assert.Equal(t, "StatusPermanentError", root.Parts["pipeline:traces"].Parts["exporter:debug"].Status)

	tree.Record(otlp, componentstatus.NewEvent(componentstatus.StatusStopped))
	assert.NotContains(t, tree.Root(started).Parts["pipeline:traces"].Parts, "receiver:otlp", "not running: no part")
}
