package traceload_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/traceload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receiver refuses the first requests, in one way or another.
type receiver struct {
	ptraceotlp.UnimplementedGRPCServer

	mu sync.Mutex
	// mu guards everything below.
	refuse, reject int
	spans          map[sink.SpanRef]ptrace.Span
	services       map[string]bool
	more           int // arrivals of a span that had arrived
}

func (r *receiver) Export(_ context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := ptraceotlp.NewExportResponse()
	if r.refuse > 0 {
		r.refuse--
		return answer, status.Error(codes.Unavailable, "not now")
	}
	if r.reject > 0 {
		r.reject--
		answer.PartialSuccess().SetRejectedSpans(1)
		return answer, nil
	}
	for _, rs := range request.Traces().ResourceSpans().All() {
		name, _ := rs.Resource().Attributes().Get("service.name")
		r.services[name.Str()] = true
		for _, span := range rs.ScopeSpans().At(0).Spans().All() {
			ref := sink.SpanRef{Trace: span.TraceID(), Span: span.SpanID()}
			if _, ok := r.spans[ref]; ok {
				r.more++
			}
			r.spans[ref] = span
		}
	}
	return answer, nil
}

func listen(t *testing.T, refuse, reject int) (*receiver, string) {
	t.Helper()
	r := &receiver{refuse: refuse, reject: reject, spans: map[sink.SpanRef]ptrace.Span{}, services: map[string]bool{}}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(s, r)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return r, ln.Addr().String()
}

func TestWholeTracesArriveAlsoWhereRequestsAreRefused(t *testing.T) {
	t.Parallel()
	first, firstAddr := listen(t, 3, 2)
	second, secondAddr := listen(t, 0, 0)
	const traces, length = 100, 200 * time.Millisecond
	g, err := traceload.Start(traceload.Settings{Endpoints: []string{firstAddr, secondAddr}, Errors: 0.5, Length: length})
	require.NoError(t, err)
	require.NoError(t, g.WaitTraces(patiently(t), traces))
	result := g.Stop(patiently(t))
	assert.Equal(t, result, g.Stop(patiently(t)))

	require.GreaterOrEqual(t, len(result.Traces), traces)
	assert.Equal(t, uint64(5), result.Refused)
	assert.NotZero(t, result.Requests)
	errors := 0
	for _, trace := range result.Traces {
		marked := 0
		for i, span := range trace.Spans {
			at := []*receiver{first, second}[i%traceload.Services%2]
			got, ok := at.spans[sink.SpanRef{Trace: trace.ID, Span: span.ID}]
			require.True(t, ok, "span %d of a trace", i)
			assert.False(t, span.Sent.Before(got.EndTimestamp().AsTime()), "a span is sent when it has ended")
			assert.False(t, span.Accepted.Before(span.Sent))
			assert.Equal(t, i == 0, got.ParentSpanID().IsEmpty())
			if got.Status().Code() == ptrace.StatusCodeError {
				marked++
			}
		}
		assert.Equal(t, trace.Error, marked == 1)
		if trace.Error {
			errors++
		}
	}
	assert.InDelta(t, len(result.Traces)/2, errors, float64(len(result.Traces))/4, "5 standard deviations")
	assert.Equal(t, map[string]bool{"service-0": true, "service-2": true}, first.services)
	assert.Equal(t, map[string]bool{"service-1": true, "service-3": true}, second.services)
	assert.Len(t, first.spans, len(result.Traces)*traceload.Spans/2)
	assert.Zero(t, first.more+second.more)
}

func TestStopGivesUp(t *testing.T) {
	t.Parallel()
	_, addr := listen(t, 1<<30, 0)
	g, err := traceload.Start(traceload.Settings{Endpoints: []string{addr}, Length: time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, g.WaitTraces(patiently(t), 1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, g.WaitTraces(ctx, 1<<30), context.DeadlineExceeded)
	result := g.Stop(ctx)
	assert.Zero(t, result.Requests)
	assert.NotEqual(t, pcommon.TraceID{}, result.Traces[0].ID)
	for _, span := range result.Traces[0].Spans {
		assert.Zero(t, span.Accepted)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, s := range []traceload.Settings{{}, {Endpoints: []string{"127.0.0.1:1"}, Rate: -1}} {
		_, err := traceload.Start(s)
		require.ErrorContains(t, err, "starting load")
	}
}
