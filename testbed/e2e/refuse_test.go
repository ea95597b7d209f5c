//go:build unix

package e2e_test

import (
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// Whatever is wrong with an offer: it is refused with a text that names the cause
// while the pipelines go on as if nothing had been offered.
//
// Conformance: 28, 66, 73, 161
func TestInvalidOfferTouchesNothing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		offer opampserver.Offer
		// reason are parts of the text that the server must be told.
		reason  []string
		rollout string
	}{
		"not YAML": {
			offer:  named(map[string]string{"main.yaml": "receivers: ["}),
			reason: []string{`"main.yaml"`, "yaml: line 1"},
		},
		"no map at the top": {
			offer:  named(map[string]string{"main.yaml": "- receivers"}),
			reason: []string{`"main.yaml"`, "list"},
		},
		"files that conflict in type": {
			offer: named(map[string]string{
				"a.yaml": "exporters: {debug: {verbosity: basic}}",
				"b.yaml": "exporters: {debug: [basic]}",
			}),
			reason: []string{`"a.yaml"`, `"b.yaml"`, "exporters::debug"},
		},
		"unknown component": {
			offer:  opampserver.YAML("exporters: {nonesuch: {}}"),
			reason: []string{"exporters", `"nonesuch"`, "unknown type"},
		},
		"unknown key": {
			offer:  opampserver.YAML("processors: {batch: {nonesuch: 1}}"),
			reason: []string{"processors", "batch", "nonesuch"},
		},
		"value that is not valid": {
			offer:  opampserver.YAML("processors: {batch: {timeout: -1s}}"),
			reason: []string{"processors::batch", "timeout"},
		},
		"pipeline that refers to nothing": {
			offer:  opampserver.YAML("service: {pipelines: {traces: {exporters: [otlp_grpc/absent]}}}"),
			reason: []string{"service::pipelines::traces", `"otlp_grpc/absent"`},
		},
		"no pipeline": {
			offer:  opampserver.YAML("service: {pipelines: null}"),
			reason: []string{"service", "pipeline"},
		},
		"factory that fails": {
			offer: opampserver.YAML(`
exporters: {fault: {fail_create: true}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`),
			reason: []string{`exporter "fault" fails on demand`},
		},
		"factory that panics": {
			offer: opampserver.YAML(`
exporters: {fault: {panic_create: true}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`),
			reason: []string{"panicked", `exporter "fault" fails on demand`},
		},
		"factory that takes all memory": {
			offer: opampserver.YAML(`
exporters: {fault: {leak_create: true, leak_bytes: 4294967296}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`),
			reason: []string{map[bool]string{false: "memory", true: "failed to allocate"}[slow()]},
		},
		"factory that never returns": {
			offer: opampserver.YAML(`
exporters: {fault: {hang_create: true}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`),
			reason:  []string{"preflight_timeout", "1s"},
			rollout: "{preflight_timeout: 1s}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: tt.rollout})
			c := w.start(w.args(w.layer("mark.yaml", marking("local"))))
			agent := w.managed()
			l := w.load(w.receiver)
			l.flows()

			from := w.server.Mark()
			hash := w.server.Offer("", tt.offer)
			after := w.await(agent, hash, failed)
			for _, part := range tt.reason {
				assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, part)
			}
			w.requireVerdict(from, hash, failed)

			w.seenFromNow("local")
			l.flows()
			result := l.requireNothingLost()
			assert.Empty(t, result.Refused, "refused requests")
			assert.Zero(t, c.count(logReload), "reloads")
			for _, m := range w.server.MessagesFrom(from) {
				assert.Nil(t, m.Received.GetEffectiveConfig(), "nothing else runs, so nothing is to be reported")
			}
			last, _ := w.server.Agent(agent.UID)
			assert.True(t, last.Health.GetHealthy())
			assert.Contains(t, last.Health.GetStatus(), "failed", "the health says that there was an offer")
			c.requireNoChildren()
			c.requireAlive()
			w.requireOneSession()
		})
	}
}

// What was refused is not tried again, but stated when somebody asks.
//
// Conformance: 28, 31, 72, 75
func TestRefusedOfferIsNotRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.args())
	agent := w.managed()
	bad := opampserver.YAML("exporters: {nonesuch: {}}")
	hash := w.server.Offer("", bad)
	w.await(agent, hash, failed)

	from := w.server.Mark()
	require.NoError(t, w.server.OfferOnce(agent.UID, bad))
	w.requireSilence(from, "an identical offer is answered with silence", reportsStatus)

	from = w.server.Mark()
	require.NoError(t, w.server.Send(agent.UID, &protobufs.ServerToAgent{
		Flags: uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState),
	}))
	full, err := w.server.WaitMessage(patiently(t), from, reportsStatus)
	require.NoError(t, err)
	assert.Equal(t, hash, full.Received.GetRemoteConfigStatus().GetLastRemoteConfigHash())
	assert.Equal(t, failed, full.Received.GetRemoteConfigStatus().GetStatus())
	assert.Contains(t, full.Received.GetRemoteConfigStatus().GetErrorMessage(), "nonesuch")

	// The same body under another hash is another offer.
	again := bad
	again.Hash = []byte("another hash")
	from = w.server.Mark()
	hash = w.server.Offer("", again)
	w.await(agent, hash, failed)
	w.requireVerdict(from, hash, failed)
	assert.Zero(t, c.count(logReload))
}
