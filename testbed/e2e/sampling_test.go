//go:build unix

package e2e_test

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/traceload"
)

const (
	samplingVariable = "OTELCOL_OPAMP_SAMPLING_BINARY"
	defaultSampling  = "../../bin/otelcol-opamp-sampling"

	samplingPage = "../../docs/sampling.md"

	edgeTier, gatewayTier = "edge", "gateway"
	head, tail            = "head", "tail"

	// What the page configures.
	headSeed       = 22
	headPercentage = 25
	tailPercentage = 10
	tailSalt       = "default-hash-seed" // of the processor tail_sampling
	// laterPercentage is what tailPercentage is changed to.
	laterPercentage = 20

	// errorShare is the share of traces with an error.
	errorShare = 0.05
	// traceLength is how long a trace lasts.
	traceLength = time.Second
	// decisionWait replaces the 10 s of the page. It is several times traceLength, so
	// that a busy machine does not make spans too late.
	decisionWait = 5 * time.Second
	// steadyTraces is how many traces begin while nothing is changed: of these some
	// 250 are kept by the head sampler, some 100 by the tail sampler, and some 50
	// have an error.
	steadyTraces = 1000
	// deviations is how far a share may be from what was configured, in standard
	// deviations: one run in a million is further off.
	deviations = 5

	// gatewayQueue replaces the 1000 requests of a gateway's queue: what a gateway
	// holds when it reloads is more, as it is on a busy machine.
	gatewayQueue = 40

	// switchBound is what a switch of one Collector may take from the offer until
	// it runs, on whatever machine. It takes a tenth of a second.
	switchBound = 10 * time.Second

	logReady = "Everything is ready"
)

// samplingBinary is a distribution with the components that sample. It skips the
// test without one.
func samplingBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv(samplingVariable)
	required := path != ""
	path, err := filepath.Abs(cmp.Or(path, defaultSampling))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil && !required {
		t.Skipf("a distribution that samples is missing (run `make bin/otelcol-opamp-sampling`, or set %s): %v", samplingVariable, err)
	}
	require.FileExists(t, path, samplingVariable)
	return path
}

// member is one Collector of a fleet.
type member struct {
	*collector
	name, tier string
	uid        string
	receiver   string // address of its OTLP receiver
	metrics    string // address of its own metrics
}

// fleet is two edges and two gateways.
type fleet struct {
	w       *world
	members []*member
}

func (f *fleet) tier(tier string) []*member {
	var members []*member
	for _, m := range f.members {
		if m.tier == tier {
			members = append(members, m)
		}
	}
	return members
}

// startFleet starts Collectors with the local configuration of the page, which has
// no pipelines.
func startFleet(t *testing.T) *fleet {
	t.Helper()
	path := samplingBinary(t)
	f := &fleet{w: newWorld(t, options{sink: sink.Settings{Via: "gateway"}})}
	for _, name := range []string{"edge-1", "edge-2", "gateway-1", "gateway-2"} {
		tier, _, _ := strings.Cut(name, "-")
		m := &member{name: name, tier: tier, uid: uuid.NewString(), receiver: freeAddr(t), metrics: freeAddr(t)}
		local := block(t, samplingPage, "local", map[string]string{
			"wss://opamp.example.com/v1/opamp": f.w.endpoint,
			"tier: edge":                       "tier: " + tier,
		})
		m.collector = f.w.startBinary(path, []string{
			f.w.layer(name+".yaml", local),
			f.w.layer(name+"-test.yaml", fmt.Sprintf("extensions: {opamp: {instance_uid: %q, rollout: {trial_period: %s}}}", m.uid, trialPeriod)),
			f.w.layer(name+"-metrics.yaml", scrapable(m.metrics)),
			"--config=opamp:?state_dir=" + filepath.Join(f.w.dir, name),
		}, "HOSTNAME="+name)
		f.members = append(f.members, m)
	}
	for _, m := range f.members {
		_, err := f.w.server.WaitFor(patiently(t), m.uid, func(a opampserver.Agent) bool {
			return a.Connected && a.NonIdentifying["tier"] == m.tier
		})
		require.NoError(t, err)
	}
	return f
}

// files are what the page says that the server offers, with the addresses of this
// fleet.
func (f *fleet) files(m *member, mode string, percentage int) map[string]string {
	gateways := f.tier(gatewayTier)
	replace := map[string]string{"0.0.0.0:4317": m.receiver}
	if m.tier == edgeTier {
		for _, g := range gateways {
			replace[g.name+".example.com:4317"] = g.receiver
		}
	} else {
		replace["endpoint: backend.example.com:4317"] = fmt.Sprintf("endpoint: %s\n    tls: {insecure: true}", f.w.sink.Endpoint())
		replace["sending_queue:\n"] = fmt.Sprintf("sending_queue:\n      queue_size: %d\n", gatewayQueue)
	}
	sampling := map[string]string{}
	if m.tier == gatewayTier && mode == tail {
		sampling["decision_wait: 10s"] = "decision_wait: " + decisionWait.String()
		sampling[fmt.Sprintf("sampling_percentage: %d", tailPercentage)] = fmt.Sprintf("sampling_percentage: %d", percentage)
	}
	return map[string]string{
		"pipeline": block(f.w.t, samplingPage, m.tier+" pipeline", replace),
		"sampling": block(f.w.t, samplingPage, m.tier+" "+mode, sampling),
	}
}

// change is a change of configuration of one tier: from the first offer, until all
// its Collectors run.
type change struct{ from, to time.Time }

// change offers a mode to all Collectors of a tier at once and waits until it is
// applied.
func (f *fleet) change(tier, mode string, percentage int) change {
	f.w.t.Helper()
	type began struct {
		member *member
		hash   []byte
		log    int
		mark   int
	}
	all := change{from: time.Now()}
	var begun []began
	for _, m := range f.tier(tier) {
		b := began{member: m, log: m.LogMark(), mark: f.w.server.Mark()}
		b.hash = f.w.server.Offer(m.uid, named(f.files(m, mode, percentage)))
		begun = append(begun, b)
	}
	for _, b := range begun {
		f.w.await(opampserver.Agent{UID: b.member.uid}, b.hash, applied)
		var offered, reported time.Time
		for _, m := range f.w.server.MessagesFrom(b.mark) {
			if m.UID != b.member.uid {
				continue
			}
			if bytes.Equal(m.Sent.GetRemoteConfig().GetConfigHash(), b.hash) && offered.IsZero() {
				offered = m.Time
			}
			s := m.Received.GetRemoteConfigStatus()
			if bytes.Equal(s.GetLastRemoteConfigHash(), b.hash) && s.GetStatus() == applied && reported.IsZero() {
				reported = m.Time
			}
		}
		ready, err := b.member.WaitLogAfter(patiently(f.w.t), b.log, logReady)
		require.NoError(f.w.t, err)
		took := ready.Time.Sub(offered)
		f.w.t.Logf("%s to %s sampling: running %s after the offer, then %s of trial",
			b.member.name, mode, took.Round(time.Millisecond), reported.Sub(ready.Time).Round(time.Millisecond))
		assert.Less(f.w.t, took, switchBound, "from the offer until the Collector runs")
		if ready.Time.After(all.to) {
			all.to = ready.Time
		}
	}
	return all
}

// headKeeps is what the processor probabilistic_sampler decides in the mode
// hash_seed.
func headKeeps(id pcommon.TraceID) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte{headSeed, 0, 0, 0}) // 32 bits, little-endian; never fails, here and below
	_, _ = h.Write(id[:])
	const buckets = 0x4000
	return h.Sum32()%buckets < headPercentage*buckets/100
}

// tailKeeps is what the policy probabilistic of the processor tail_sampling
// decides.
func tailKeeps(id pcommon.TraceID, percentage int) bool {
	h := fnv.New64a()
	_, _ = h.Write([]byte(tailSalt))
	_, _ = h.Write(id[:])
	return float64(h.Sum64()) <= float64(percentage)/100*math.MaxUint64
}

// arrival is what has become of a trace.
type arrival struct {
	spans    int // that arrived, each counted once
	gateways []string
}

func (a arrival) whole() bool { return a.spans == traceload.Spans }
func (a arrival) torn() bool  { return a.spans > 0 && !a.whole() }

// outcome is what has become of all traces.
type outcome struct {
	t        *testing.T
	traces   []*traceload.Trace
	arrivals map[pcommon.TraceID]arrival
}

func newOutcome(t *testing.T, traces []*traceload.Trace, spans map[sink.SpanRef][]string) *outcome {
	t.Helper()
	o := &outcome{t: t, traces: traces, arrivals: map[pcommon.TraceID]arrival{}}
	duplicates, divided := 0, 0
	for ref, gateways := range spans {
		a := o.arrivals[ref.Trace]
		a.spans++
		a.gateways = append(a.gateways, gateways...)
		o.arrivals[ref.Trace] = a
		duplicates += len(gateways) - 1
	}
	for id, a := range o.arrivals {
		slices.Sort(a.gateways)
		a.gateways = slices.Compact(a.gateways)
		o.arrivals[id] = a
		if len(a.gateways) != 1 {
			divided++
		}
	}
	t.Logf("%d traces, of which %d have arrived; %d spans arrived more than once", len(traces), len(o.arrivals), duplicates)
	assert.Zero(t, divided, "traces that came through several gateways")
	return o
}

// before, after and during tell which traces were sent before, after and in a
// change.
func before(trace *traceload.Trace, c change) bool {
	return !slices.ContainsFunc(trace.Spans[:], func(s traceload.Span) bool { return !s.Accepted.Before(c.from) })
}

func after(trace *traceload.Trace, c change) bool {
	return !slices.ContainsFunc(trace.Spans[:], func(s traceload.Span) bool { return !s.Sent.After(c.to) })
}

func during(trace *traceload.Trace, c change) bool { return !before(trace, c) && !after(trace, c) }

// requireExactly checks that those traces are there, and whole, that are to be
// kept, and of the others nothing.
func (o *outcome) requireExactly(what string, in, kept func(*traceload.Trace) bool) {
	o.t.Helper()
	var all, wanted, lost, torn, extra int
	for _, trace := range o.traces {
		if !in(trace) {
			continue
		}
		all++
		a := o.arrivals[trace.ID]
		switch {
		case kept(trace) && a.spans == 0:
			lost++
		case a.torn():
			torn++
		case !kept(trace) && a.whole():
			extra++
		}
		if kept(trace) {
			wanted++
		}
	}
	o.t.Logf("%s: %d traces, %d to be kept; of these %d lost; %d torn; %d kept that were not to be", what, all, wanted, lost, torn, extra)
	assert.GreaterOrEqual(o.t, all, steadyTraces/2, "%s: traces", what)
	assert.Zero(o.t, lost+torn+extra, "%s: traces that are not as configured", what)
}

// requireShare checks how many of some traces have arrived whole.
func (o *outcome) requireShare(what string, in func(*traceload.Trace) bool, percentage float64) {
	o.t.Helper()
	all, whole := 0, 0
	for _, trace := range o.traces {
		if in(trace) {
			all++
			if o.arrivals[trace.ID].whole() {
				whole++
			}
		}
	}
	require.NotZero(o.t, all, what)
	p := percentage / 100
	bound := deviations * 100 * math.Sqrt(p*(1-p)/float64(all))
	got := 100 * float64(whole) / float64(all)
	o.t.Logf("%s: %d of %d traces arrived, %.1f %% (configured %g %%, bound ±%.1f %%)", what, whole, all, got, percentage, bound)
	assert.InDelta(o.t, percentage, got, bound+1e-9, what)
}

// count counts what has become of some traces.
type count struct{ traces, none, torn, whole, errors, errorsNone, errorsTorn int }

func (o *outcome) count(in func(*traceload.Trace) bool) count {
	var c count
	for _, trace := range o.traces {
		if !in(trace) {
			continue
		}
		a := o.arrivals[trace.ID]
		c.traces++
		if trace.Error {
			c.errors++
		}
		switch {
		case a.whole():
			c.whole++
		case a.torn():
			c.torn++
			if trace.Error {
				c.errorsTorn++
			}
		default:
			c.none++
			if trace.Error {
				c.errorsNone++
			}
		}
	}
	return c
}

func (c count) String() string {
	return fmt.Sprintf("%d traces: %d whole, %d torn, %d not kept; of the %d with an error %d torn, %d not kept",
		c.traces, c.whole, c.torn, c.none, c.errors, c.errorsTorn, c.errorsNone)
}

// A server switches a fleet from head to tail sampling and back, one tier after
// the other, under load: no span is lost that was to be kept, traces with an error
// are whole as soon as the edges have switched, and only traces that were on their
// way while the edges switched, and that the head sampler does not want, are torn.
//
// It does not run beside other tests: it measures.
//
//nolint:paralleltest // see above
func TestSamplingIsSwitchedUnderLoad(t *testing.T) {
	f := startFleet(t)
	w := f.w
	f.change(gatewayTier, head, 0)
	f.change(edgeTier, head, 0)

	var endpoints []string
	for _, m := range f.tier(edgeTier) {
		endpoints = append(endpoints, m.receiver)
	}
	l, err := traceload.Start(traceload.Settings{Endpoints: endpoints, Length: traceLength, Errors: errorShare})
	require.NoError(t, err)
	t.Cleanup(func() { l.Stop(cleanupContext(t)) })
	steady := func() { require.NoError(t, l.WaitTraces(patiently(t), steadyTraces)) }
	// Decisions are taken once per second, and the batch of that second is sent.
	decided := func() { <-time.After(traceLength + decisionWait + 2*time.Second) }

	steady()
	// The gateways come first: until the edges have switched too, they keep what an
	// edge has kept.
	f.change(gatewayTier, tail, tailPercentage)
	toTail := f.change(edgeTier, tail, 0)
	steady()
	steady()
	later := f.change(gatewayTier, tail, laterPercentage)
	steady()
	// The edges come first: what the gateways have not decided on when they reload
	// must be traces of which everything is kept.
	toHead := f.change(edgeTier, head, 0)
	decided()
	f.metricsTell(t)
	f.change(gatewayTier, head, 0)
	steady()
	result := l.Stop(patiently(t))
	t.Logf("load: %d traces in %d requests; %d more were refused and sent again", len(result.Traces), result.Requests, result.Refused)
	for _, trace := range result.Traces {
		for _, span := range trace.Spans {
			require.NotZero(t, span.Accepted, "a span that was never accepted")
		}
	}

	// What a gateway may have been sent late, and by a reload decided on early.
	const unsure = 2 * time.Second
	policies := change{from: later.from.Add(-unsure), to: later.to}
	kept := func(percentage int) func(*traceload.Trace) bool {
		return func(trace *traceload.Trace) bool { return trace.Error || tailKeeps(trace.ID, percentage) }
	}
	keptByHead := func(trace *traceload.Trace) bool { return headKeeps(trace.ID) }
	headBefore := func(trace *traceload.Trace) bool { return before(trace, toTail) }
	headAfter := func(trace *traceload.Trace) bool { return after(trace, toHead) }
	firstTail := func(trace *traceload.Trace) bool { return after(trace, toTail) && before(trace, policies) }
	secondTail := func(trace *traceload.Trace) bool { return after(trace, policies) && before(trace, toHead) }

	// Everything that is expected comes, and then the processes end, so that nothing
	// more can.
	var wanted []sink.SpanRef
	for _, trace := range result.Traces {
		if (headBefore(trace) || headAfter(trace)) && keptByHead(trace) ||
			firstTail(trace) && kept(tailPercentage)(trace) || secondTail(trace) && kept(laterPercentage)(trace) {
			for _, span := range trace.Spans {
				wanted = append(wanted, sink.SpanRef{Trace: trace.ID, Span: span.ID})
			}
		}
	}
	if err := w.sink.WaitArrivals(bounded(t, decisionWait+quiet), wanted); err != nil {
		t.Error(err) // what is lost is counted below
	}
	for _, m := range f.members { // the edges first
		m.stop()
	}
	assert.Equal(t, len(f.members), w.server.Connections(), "each Collector keeps its connection to the server")
	o := newOutcome(t, result.Traces, w.sink.Arrivals())

	o.requireExactly("head sampling, before", headBefore, keptByHead)
	o.requireExactly("head sampling, after", headAfter, keptByHead)
	o.requireShare("head sampling", func(trace *traceload.Trace) bool { return headBefore(trace) || headAfter(trace) }, headPercentage)
	o.requireExactly("tail sampling", firstTail, kept(tailPercentage))
	o.requireExactly("tail sampling with other policies", secondTail, kept(laterPercentage))
	anyTail := func(trace *traceload.Trace) bool { return firstTail(trace) || secondTail(trace) }
	o.requireShare("tail sampling, errors", func(trace *traceload.Trace) bool { return anyTail(trace) && trace.Error }, 100)
	o.requireShare("tail sampling, the rest", func(trace *traceload.Trace) bool { return firstTail(trace) && !trace.Error }, tailPercentage)
	o.requireShare("tail sampling with other policies, the rest", func(trace *traceload.Trace) bool { return secondTail(trace) && !trace.Error }, laterPercentage)

	// Traces on their way in a change.
	for what, c := range map[string]change{"the edges' switch to tail sampling": toTail, "the edges' switch to head sampling": toHead} {
		in := func(keeps bool) count {
			return o.count(func(trace *traceload.Trace) bool { return during(trace, c) && headKeeps(trace.ID) == keeps })
		}
		wanted := in(true)
		t.Logf("on their way in %s, wanted by the head sampler: %s", what, wanted)
		t.Logf("on their way in %s, not wanted by it: %s", what, in(false))
		assert.NotZero(t, wanted.traces)
		assert.Zero(t, wanted.torn+wanted.errorsNone, "traces in %s", what)
	}
	onTheirWay := o.count(func(trace *traceload.Trace) bool { return during(trace, policies) })
	t.Logf("on their way in the gateways' change of policies, or up to %s before: %s", unsure, onTheirWay)
	lost := o.count(func(trace *traceload.Trace) bool {
		return during(trace, policies) && (trace.Error || tailKeeps(trace.ID, tailPercentage))
	})
	assert.Zero(t, lost.none, "traces to be kept of which nothing arrived")
}

// samplingMetrics are the metrics by which the page verifies a switch. All of them
// are there while the edges and the gateways sample.
var samplingMetrics = map[string][]string{
	edgeTier: {
		"otelcol_processor_probabilistic_sampler_count_traces_sampled",
		"otelcol_exporter_sent_spans",
		"otelcol_loadbalancer_backend_outcome",
	},
	gatewayTier: {
		"otelcol_receiver_accepted_spans",
		"otelcol_processor_tail_sampling_global_count_traces_sampled",
		"otelcol_processor_tail_sampling_count_traces_sampled",
		"otelcol_processor_tail_sampling_sampling_trace_dropped_too_early",
		"otelcol_exporter_sent_spans",
	},
}

// metricsTell checks that the metrics of the page are there.
func (f *fleet) metricsTell(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile(samplingPage)
	require.NoError(t, err)
	for _, m := range f.members {
		got := f.w.scrape(m.metrics, "otelcol_")
		for _, name := range samplingMetrics[m.tier] {
			assert.Contains(t, string(page), "`"+name, "the page")
			assert.Contains(t, got, name+"{", "the metrics of %s", m.name)
		}
		if m.tier == gatewayTier {
			assert.Regexp(t, `_sampling_trace_dropped_too_early\{[^}]*\} 0\b`, got, "the metrics of %s", m.name)
		}
	}
}
