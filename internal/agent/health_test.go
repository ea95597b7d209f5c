package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pipeline"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
)

// TestStartTimeIsThatOfTheStart: the health says since when the agent and each
// component run, whatever happened to them since; and since when they are as they
// are.
//
// Conformance: E6, 53, 54, 55
func TestStartTimeIsThatOfTheStart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	leases := make(chan *agent.ExtensionLease, 10)
	h.started = func(_ map[string]any, e *agent.ExtensionLease) { leases <- e }
	before := time.Now()
	h.start()
	e := receive(t, leases)
	source := componentstatus.NewInstanceID(component.MustNewID("otlp"), component.KindReceiver, pipeline.NewID(pipeline.SignalTraces))
	e.ComponentStatus(source, componentstatus.NewEvent(componentstatus.StatusStarting))
	e.ComponentStatus(source, componentstatus.NewEvent(componentstatus.StatusOK))
	s.wait(t, "health", func() bool { return s.health.GetHealthy() })
	s.mu.Lock()
	well := s.health
	s.mu.Unlock()
	since := func(nanos uint64) time.Time { return time.Unix(0, int64(nanos)) } // until the year 2262
	assert.False(t, since(well.GetStartTimeUnixNano()).Before(before))
	assert.Empty(t, well.GetLastError())

	broken := componentstatus.NewPermanentErrorEvent(errors.New("disk full"))
	e.ComponentStatus(source, broken)
	s.wait(t, "the error", func() bool { return !s.health.GetHealthy() && strings.Contains(s.health.GetLastError(), "disk full") })
	s.mu.Lock()
	ill := s.health
	s.mu.Unlock()
	assert.Equal(t, well.GetStartTimeUnixNano(), ill.GetStartTimeUnixNano(), "of the agent")
	assert.True(t, since(ill.GetStatusTimeUnixNano()).Equal(broken.Timestamp()))
	receiver := func(h *protobufs.ComponentHealth) *protobufs.ComponentHealth {
		return h.GetComponentHealthMap()["pipeline:traces"].GetComponentHealthMap()["receiver:otlp"]
	}
	assert.Equal(t, "disk full", receiver(ill).GetLastError())
	assert.NotZero(t, receiver(ill).GetStartTimeUnixNano())
	assert.Equal(t, receiver(well).GetStartTimeUnixNano(), receiver(ill).GetStartTimeUnixNano(), "of the component")
}
