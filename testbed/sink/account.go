package sink

import (
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
)

// keepBodies bounds the texts of log records: more than a test of own telemetry has.
const keepBodies = 100_000

// account is what has arrived. It is guarded by Sink.mu.
type account struct {
	runs         map[string]map[uint64]int // arrivals by run and number
	spans        int
	attributes   map[attribute]*sighting
	metricPoints map[string]int
	logRecords   int
	resources    map[Signal]map[string]*resource // by what identifies them
	scopes       map[Signal]map[string]bool
	bodies       []string // the latest, of log records
	lastPoint    map[string]time.Time
	via          string // Settings.Via
	arrivals     map[SpanRef][]string
}

// resource is one that has arrived.
type resource struct {
	attributes map[string]string
	last       time.Time
}

// SpanRef identifies a span.
type SpanRef struct {
	Trace pcommon.TraceID
	Span  pcommon.SpanID
}

type attribute struct{ key, value string }

type sighting struct{ first, last time.Time }

func newAccount(via string) account {
	return account{
		via:          via,
		arrivals:     map[SpanRef][]string{},
		runs:         map[string]map[uint64]int{},
		attributes:   map[attribute]*sighting{},
		metricPoints: map[string]int{},
		resources:    map[Signal]map[string]*resource{Traces: {}, Metrics: {}, Logs: {}},
		scopes:       map[Signal]map[string]bool{Traces: {}, Metrics: {}, Logs: {}},
		lastPoint:    map[string]time.Time{},
	}
}

func (a *account) addTraces(td ptrace.Traces, now time.Time) {
	for _, rs := range td.ResourceSpans().All() {
		a.addResource(Traces, rs.Resource(), now)
		via := a.viaOf(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			a.scopes[Traces][ss.Scope().Name()] = true
			for _, span := range ss.Spans().All() {
				a.addSpan(span, now)
				if a.via != "" {
					ref := SpanRef{Trace: span.TraceID(), Span: span.SpanID()}
					a.arrivals[ref] = append(a.arrivals[ref], via)
				}
			}
		}
	}
}

// viaOf returns the value of the attribute Settings.Via, empty if there is none.
func (a *account) viaOf(resource pcommon.Resource) string {
	if value, ok := resource.Attributes().Get(a.via); ok {
		return value.AsString()
	}
	return ""
}

func (a *account) addSpan(span ptrace.Span, now time.Time) {
	a.spans++
	a.addAttributes(span.Attributes(), now)
	run, hasRun := span.Attributes().Get(load.RunAttribute)
	seq, hasSeq := span.Attributes().Get(load.SeqAttribute)
	if !hasRun || !hasSeq {
		return
	}
	seqs, ok := a.runs[run.Str()]
	if !ok {
		seqs = map[uint64]int{}
		a.runs[run.Str()] = seqs
	}
	seqs[uint64(seq.Int())]++ //nolint:gosec // written by the load package from a uint64
}

func (a *account) addMetrics(md pmetric.Metrics, now time.Time) {
	for _, rm := range md.ResourceMetrics().All() {
		a.addResource(Metrics, rm.Resource(), now)
		for _, sm := range rm.ScopeMetrics().All() {
			a.scopes[Metrics][sm.Scope().Name()] = true
			for _, m := range sm.Metrics().All() {
				a.metricPoints[m.Name()] += pointCount(m)
				a.lastPoint[m.Name()] = now
			}
		}
	}
}

func pointCount(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	case pmetric.MetricTypeEmpty:
	}
	return 0
}

func (a *account) addLogs(ld plog.Logs, now time.Time) {
	a.logRecords += ld.LogRecordCount()
	defer func() { a.bodies = slices.Delete(a.bodies, 0, max(0, len(a.bodies)-keepBodies)) }()
	for _, rl := range ld.ResourceLogs().All() {
		a.addResource(Logs, rl.Resource(), now)
		for _, sl := range rl.ScopeLogs().All() {
			a.scopes[Logs][sl.Scope().Name()] = true
			for _, record := range sl.LogRecords().All() {
				a.bodies = append(a.bodies, record.Body().AsString())
				a.addAttributes(record.Attributes(), now)
			}
		}
	}
}

// addResource remembers a resource and its attributes.
func (a *account) addResource(signal Signal, r pcommon.Resource, now time.Time) {
	a.addAttributes(r.Attributes(), now)
	attributes := map[string]string{}
	for key, value := range r.Attributes().All() {
		attributes[key] = value.AsString()
	}
	id := fmt.Sprint(attributes) // sorted by key
	if known, ok := a.resources[signal][id]; ok {
		known.last = now
		return
	}
	a.resources[signal][id] = &resource{attributes: attributes, last: now}
}

// addAttributes remembers the sighting of each attribute, except the number of
// the span: every span has another.
func (a *account) addAttributes(attributes pcommon.Map, now time.Time) {
	for key, value := range attributes.All() {
		if key == load.SeqAttribute {
			continue
		}
		at := attribute{key: key, value: value.AsString()}
		if seen, ok := a.attributes[at]; ok {
			seen.last = now
			continue
		}
		a.attributes[at] = &sighting{first: now, last: now}
	}
}

// missing returns the numbers of wanted that have not arrived.
func (a *account) missing(run string, wanted []uint64) []uint64 {
	var missing []uint64
	for _, seq := range wanted {
		if a.runs[run][seq] == 0 {
			missing = append(missing, seq)
		}
	}
	return missing
}
