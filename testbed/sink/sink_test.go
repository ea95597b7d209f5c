package sink_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func start(t *testing.T) *sink.Sink {
	t.Helper()
	s, err := sink.Start(sink.Settings{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(patiently(t))) })
	return s
}

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// exporter sends one export request of each signal.
type exporter interface {
	traces(*testing.T, ptrace.Traces)
	metrics(*testing.T, pmetric.Metrics)
	logs(*testing.T, plog.Logs)
}

type grpcExporter struct{ conn *grpc.ClientConn }

func newGRPCExporter(t *testing.T, s *sink.Sink) exporter {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.Endpoint(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(grpcgzip.Name)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return grpcExporter{conn}
}

func (e grpcExporter) traces(t *testing.T, td ptrace.Traces) {
	t.Helper()
	_, err := ptraceotlp.NewGRPCClient(e.conn).Export(patiently(t), ptraceotlp.NewExportRequestFromTraces(td))
	require.NoError(t, err)
}

func (e grpcExporter) metrics(t *testing.T, md pmetric.Metrics) {
	t.Helper()
	_, err := pmetricotlp.NewGRPCClient(e.conn).Export(patiently(t), pmetricotlp.NewExportRequestFromMetrics(md))
	require.NoError(t, err)
}

func (e grpcExporter) logs(t *testing.T, ld plog.Logs) {
	t.Helper()
	_, err := plogotlp.NewGRPCClient(e.conn).Export(patiently(t), plogotlp.NewExportRequestFromLogs(ld))
	require.NoError(t, err)
}

type httpExporter struct {
	base string
	zip  bool
}

func (e httpExporter) traces(t *testing.T, td ptrace.Traces) {
	t.Helper()
	e.post(t, "/v1/traces", ptraceotlp.NewExportRequestFromTraces(td).MarshalProto)
}

func (e httpExporter) metrics(t *testing.T, md pmetric.Metrics) {
	t.Helper()
	e.post(t, "/v1/metrics", pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto)
}

func (e httpExporter) logs(t *testing.T, ld plog.Logs) {
	t.Helper()
	e.post(t, "/v1/logs", plogotlp.NewExportRequestFromLogs(ld).MarshalProto)
}

func (e httpExporter) post(t *testing.T, path string, marshal func() ([]byte, error)) {
	t.Helper()
	body, err := marshal()
	require.NoError(t, err)
	header := http.Header{"Content-Type": {"application/x-protobuf"}}
	if e.zip {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err = w.Write(body)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		body = zipped.Bytes()
		header.Set("Content-Encoding", "gzip")
	}
	require.Equal(t, http.StatusOK, post(t, e.base+path, header, body))
}

func post(t *testing.T, url string, header http.Header, body []byte) int {
	t.Helper()
	req, err := http.NewRequestWithContext(patiently(t), http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header = header
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

func numbered(run string, seqs ...int64) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("config", run)
	for _, seq := range seqs {
		span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		span.Attributes().PutStr(load.RunAttribute, run)
		span.Attributes().PutInt(load.SeqAttribute, seq)
		span.Attributes().PutBool("span.only", true)
	}
	return td
}

func TestEverySignalOnEveryTransport(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T, *sink.Sink) exporter{
		"grpc":      newGRPCExporter,
		"http":      func(_ *testing.T, s *sink.Sink) exporter { return httpExporter{base: s.HTTPEndpoint()} },
		"http gzip": func(_ *testing.T, s *sink.Sink) exporter { return httpExporter{base: s.HTTPEndpoint(), zip: true} },
	}
	for name, connect := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			e := connect(t, s)

			before := time.Now()
			e.traces(t, numbered("a", 1, 2, 3))
			e.traces(t, numbered("a", 3, 3))
			e.traces(t, numbered("b", 7))
			e.traces(t, ptrace.NewTraces())
			assert.Equal(t, 6, s.Spans())
			assert.Equal(t, []uint64{1, 2, 3}, s.Seqs("a"))
			assert.Equal(t, 2, s.Duplicates("a"))
			assert.Equal(t, []uint64{4, 9}, s.Missing("a", []uint64{1, 2, 3, 4, 9}))
			assert.Equal(t, []uint64{1}, s.Missing("unknown", []uint64{1}))
			require.NoError(t, s.WaitSpans(patiently(t), "b", []uint64{7}))
			for key, value := range map[string]string{"config": "a", "span.only": "true", load.RunAttribute: "b"} {
				seen, err := s.WaitAttribute(patiently(t), key, value)
				require.NoError(t, err)
				assert.WithinRange(t, seen, before, time.Now())
			}

			e.metrics(t, someMetrics())
			for _, name := range []string{"gauge", "sum", "histogram", "exponential", "summary"} {
				require.NoError(t, s.WaitMetric(patiently(t), name))
				assert.Equal(t, 2, s.MetricPoints(name))
			}
			assert.Zero(t, s.MetricPoints("empty"))
			assert.Len(t, s.Metrics(), 6)

			ld := plog.NewLogs()
			record := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
			record.Attributes().PutStr("in", "log")
			e.logs(t, ld)
			assert.Equal(t, 1, s.LogRecords())
			_, err := s.WaitAttribute(patiently(t), "in", "log")
			require.NoError(t, err)
		})
	}
}

// someMetrics has two points of each type.
func someMetrics() pmetric.Metrics {
	md := pmetric.NewMetrics()
	metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	add := func(name string) pmetric.Metric {
		m := metrics.AppendEmpty()
		m.SetName(name)
		return m
	}
	gauge := add("gauge").SetEmptyGauge().DataPoints()
	sum := add("sum").SetEmptySum().DataPoints()
	histogram := add("histogram").SetEmptyHistogram().DataPoints()
	exponential := add("exponential").SetEmptyExponentialHistogram().DataPoints()
	summary := add("summary").SetEmptySummary().DataPoints()
	add("empty")
	for range 2 {
		gauge.AppendEmpty()
		sum.AppendEmpty()
		histogram.AppendEmpty()
		exponential.AppendEmpty()
		summary.AppendEmpty()
	}
	return md
}

func TestWaitsEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.WaitAttribute(ended, "a", "b")
	require.EqualError(t, err, `waiting for attribute a="b": context canceled`)
	_, err = s.WaitAttributeAfter(ended, "a", "b", time.Now())
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, s.WaitMetric(ended, "m"), `waiting for metric "m" (seen: []): context canceled`)
	require.EqualError(t, s.WaitSpans(ended, "r", []uint64{4, 5}),
		`waiting for spans of run "r" (2 of 2 missing, the first is 4): context canceled`)
}

func TestWaitAttributeAfter(t *testing.T) {
	t.Parallel()
	s := start(t)
	e := newGRPCExporter(t, s)
	e.traces(t, numbered("a", 1))
	first, err := s.WaitAttribute(patiently(t), "config", "a")
	assert.Equal(t, "config=a", s.AttributeWith("fig=a"))
	assert.Empty(t, s.AttributeWith("config=b"))
	require.NoError(t, err)
	again := make(chan time.Time, 1)
	ctx := patiently(t)
	go func() {
		seen, err := s.WaitAttributeAfter(ctx, "config", "a", first)
		assert.NoError(t, err)
		again <- seen
	}()
	e.traces(t, numbered("a", 2))
	assert.True(t, (<-again).After(first))
}

func TestArrivals(t *testing.T) {
	t.Parallel()
	s, err := sink.Start(sink.Settings{Via: "gateway"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(patiently(t))) })
	e := newGRPCExporter(t, s)
	refs := []sink.SpanRef{{Trace: [16]byte{1}, Span: [8]byte{1}}, {Trace: [16]byte{1}, Span: [8]byte{2}}}
	export := func(ref sink.SpanRef, gateway string) {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		if gateway != "" {
			rs.Resource().Attributes().PutStr("gateway", gateway)
		}
		span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		span.SetTraceID(ref.Trace)
		span.SetSpanID(ref.Span)
		e.traces(t, td)
	}
	export(refs[0], "a")
	export(refs[0], "b")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.EqualError(t, s.WaitArrivals(ended, refs),
		"waiting for 2 spans (1 have arrived in order, then span 0200000000000000 of trace 01000000000000000000000000000000 is missing): context canceled")
	export(refs[1], "")
	require.NoError(t, s.WaitArrivals(patiently(t), refs))
	assert.Equal(t, map[sink.SpanRef][]string{refs[0]: {"a", "b"}, refs[1]: {""}}, s.Arrivals())

	without := start(t)
	newGRPCExporter(t, without).traces(t, numbered("a", 1))
	assert.Empty(t, without.Arrivals())
}

func TestGeneratorAndSinkAgree(t *testing.T) {
	t.Parallel()
	s := start(t)
	g, err := load.Start(load.Settings{Endpoint: s.Endpoint(), Rate: 200})
	require.NoError(t, err)
	require.NoError(t, g.WaitAccepted(patiently(t), 20))
	result := g.Stop(patiently(t))
	require.NoError(t, s.WaitSpans(patiently(t), result.Run, result.Accepted))
	assert.Empty(t, s.Missing(result.Run, result.Accepted))
	assert.Zero(t, s.Duplicates(result.Run))
}

func TestBadHTTPRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	protobuf := http.Header{"Content-Type": {"application/x-protobuf"}}
	encoded := func(encoding string) http.Header {
		return http.Header{"Content-Type": protobuf["Content-Type"], "Content-Encoding": {encoding}}
	}
	for _, path := range []string{"/v1/traces", "/v1/metrics", "/v1/logs"} {
		url := s.HTTPEndpoint() + path
		assert.Equal(t, http.StatusUnsupportedMediaType, post(t, url, http.Header{"Content-Type": {"application/json"}}, nil))
		assert.Equal(t, http.StatusBadRequest, post(t, url, protobuf, []byte("\xff")))
		assert.Equal(t, http.StatusBadRequest, post(t, url, encoded("gzip"), []byte("plain")))
		assert.Equal(t, http.StatusBadRequest, post(t, url, encoded("zstd"), nil))
	}
	assert.Equal(t, http.StatusNotFound, post(t, s.HTTPEndpoint()+"/v2/traces", protobuf, nil))
}

func TestSamePortsAgain(t *testing.T) {
	t.Parallel()
	first, err := sink.Start(sink.Settings{})
	require.NoError(t, err)
	_, err = sink.Start(sink.Settings{Addr: first.Endpoint()})
	require.ErrorContains(t, err, "starting sink")
	_, err = sink.Start(sink.Settings{HTTPAddr: first.HTTPEndpoint()[len("http://"):]})
	require.ErrorContains(t, err, "starting sink")
	require.NoError(t, first.Stop(patiently(t)))
	second, err := sink.Start(sink.Settings{Addr: first.Endpoint(), HTTPAddr: first.HTTPEndpoint()[len("http://"):]})
	require.NoError(t, err)
	require.NoError(t, second.Stop(patiently(t)))
}
