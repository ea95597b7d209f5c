package load_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// receiver answers as its fields say.
type receiver struct {
	ptraceotlp.UnimplementedGRPCServer
	calls   atomic.Int64
	refuse  atomic.Bool
	partial atomic.Bool
	block   chan struct{} // nil: answer at once
	last    atomic.Pointer[ptraceotlp.ExportRequest]
}

func (r *receiver) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	r.calls.Add(1)
	r.last.Store(&req)
	answer := ptraceotlp.NewExportResponse()
	if r.block != nil {
		select {
		case <-r.block:
		case <-ctx.Done():
		}
	}
	if r.refuse.Load() {
		return answer, status.Error(codes.Unavailable, "not now")
	}
	if r.partial.Load() {
		answer.PartialSuccess().SetRejectedSpans(1)
		answer.PartialSuccess().SetErrorMessage("too old")
	}
	return answer, nil
}

// listen serves r and returns the address and a function that ends it at once.
func listen(t *testing.T, addr string, r *receiver) (string, func()) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	s := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(s, r)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(ln)
	}()
	stop := func() {
		s.Stop()
		<-served
	}
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func start(t *testing.T, s load.Settings) *load.Generator {
	t.Helper()
	g, err := load.Start(s)
	require.NoError(t, err)
	t.Cleanup(func() { g.Stop(patiently(t)) })
	return g
}

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAccountAddsUp(t *testing.T) {
	t.Parallel()
	r := new(receiver)
	addr, _ := listen(t, "127.0.0.1:0", r)
	g := start(t, load.Settings{Endpoint: addr, Rate: 200, Run: "r1"})
	begun := time.Now()
	require.NoError(t, g.WaitAccepted(patiently(t), 40))
	took := time.Since(begun)
	result := g.Stop(patiently(t))

	assert.Greater(t, took, 150*time.Millisecond, "40 requests at 200/s take 0.2 s")
	assert.Equal(t, "r1", result.Run)
	assert.Equal(t, result.Sent, uint64(len(result.Accepted)+len(result.Refused)))
	assert.EqualValues(t, r.calls.Load(), result.Sent, "no retries")
	assert.Empty(t, result.Refused)
	assert.Equal(t, uint64(1), result.Accepted[0])
	assert.Equal(t, result.Sent, result.Accepted[len(result.Accepted)-1])
	assert.Positive(t, result.LongestGap)
	assert.Positive(t, result.Latency(0.5))
	assert.LessOrEqual(t, result.Latency(0.5), result.Latency(1))
	assert.Equal(t, load.Progress{Sent: result.Sent, Accepted: result.Sent}, g.Progress())
	assert.Equal(t, result, g.Stop(t.Context()))

	rs := r.last.Load().Traces().ResourceSpans().At(0)
	name, _ := rs.Resource().Attributes().Get("service.name")
	assert.Equal(t, "load", name.Str())
	span := rs.ScopeSpans().At(0).Spans().At(0)
	run, _ := span.Attributes().Get("load.run")
	assert.Equal(t, "r1", run.Str())
	seq, _ := span.Attributes().Get("load.seq")
	assert.Positive(t, seq.Int())
	assert.False(t, span.TraceID().IsEmpty())
	assert.False(t, span.SpanID().IsEmpty())
}

func TestRefusalsAreNotRetried(t *testing.T) {
	t.Parallel()
	r := new(receiver)
	r.refuse.Store(true)
	addr, _ := listen(t, "127.0.0.1:0", r)
	g := start(t, load.Settings{Endpoint: addr, Rate: 200})
	require.Eventually(t, func() bool { return g.Progress().Refused >= 5 }, patience, time.Millisecond, "refusals are counted")
	r.refuse.Store(false)
	r.partial.Store(true)
	seen := g.Progress().Refused
	require.Eventually(t, func() bool { return g.Progress().Refused >= seen+5 }, patience, time.Millisecond, "rejected spans are counted")
	r.partial.Store(false)
	require.NoError(t, g.WaitAccepted(patiently(t), 5))
	result := g.Stop(patiently(t))
	assert.EqualValues(t, r.calls.Load(), result.Sent)
	assert.Equal(t, codes.Unavailable, status.Code(result.Refused[0].Err))
	last := result.Refused[len(result.Refused)-1]
	require.ErrorIs(t, last.Err, load.ErrPartial)
	require.ErrorContains(t, last.Err, "too old")
	assert.NotEmpty(t, g.Run(), "a run gets a name")
	assert.Len(t, result.RefusedBetween(result.Started, result.Stopped), len(result.Refused))
	assert.Empty(t, result.RefusedBetween(result.Stopped, result.Stopped.Add(time.Hour)))
}

func TestOutageIsSeenAndItsEndAtOnce(t *testing.T) {
	t.Parallel()
	r := new(receiver)
	addr, stop := listen(t, "127.0.0.1:0", r)
	g := start(t, load.Settings{Endpoint: addr, Rate: 500})
	require.NoError(t, g.WaitAccepted(patiently(t), 10))
	from := time.Now()
	stop()
	refused := g.Progress().Refused
	require.Eventually(t, func() bool { return g.Progress().Refused >= refused+50 }, patience, time.Millisecond, "a refused connect is a refusal")
	back := time.Now()
	listen(t, addr, r)
	require.NoError(t, g.WaitAccepted(patiently(t), 10))
	result := g.Stop(patiently(t))
	gap, gapFrom := result.LongestGapBetween(from.Add(-time.Second), result.Stopped)
	assert.Equal(t, result.LongestGap, gap)
	assert.Equal(t, result.GapFrom, gapFrom)
	assert.GreaterOrEqual(t, gap, 90*time.Millisecond, "50 requests at 500/s were refused")
	noticed := gapFrom.Add(gap).Sub(back)
	assert.Less(t, noticed, time.Second, "the default backoff would take longer")
}

func TestTimeoutAndStop(t *testing.T) {
	t.Parallel()
	r := &receiver{block: make(chan struct{})}
	addr, _ := listen(t, "127.0.0.1:0", r)
	g := start(t, load.Settings{Endpoint: addr, Rate: 100, Timeout: 20 * time.Millisecond})
	require.Eventually(t, func() bool { return g.Progress().Refused >= 2 }, patience, time.Millisecond, "requests time out")
	assert.Equal(t, codes.DeadlineExceeded, status.Code(g.Stop(patiently(t)).Refused[0].Err))

	g = start(t, load.Settings{Endpoint: addr, Rate: 100, Timeout: time.Hour})
	calls := r.calls.Load()
	require.Eventually(t, func() bool { return r.calls.Load() > calls+2 }, patience, time.Millisecond, "requests are under way")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	result := g.Stop(ended)
	assert.Len(t, result.Refused, int(result.Sent), "abandoned requests count as refused")
	require.ErrorContains(t, g.WaitAccepted(ended, 1), "waiting for 1 accepted requests")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	_, err := load.Start(load.Settings{Rate: -1})
	require.ErrorContains(t, err, "rate must be positive")
	assert.Zero(t, load.Result{}.Latency(0.5))
}

// With gRPC's default, one connect that is refused costs such a client about a second.
func TestDefaultBackoff(t *testing.T) {
	t.Parallel()
	r := new(receiver)
	addr, stop := listen(t, "127.0.0.1:0", r)
	stop()
	g := start(t, load.Settings{Endpoint: addr, Rate: 200, DefaultBackoff: true})
	require.Eventually(t, func() bool { return g.Progress().Refused > 0 }, patience, time.Millisecond, "the connect is refused")
	listen(t, addr, r)
	require.NoError(t, g.WaitAccepted(patiently(t), 5))
	result := g.Stop(patiently(t))
	waited := result.Successes[0].Time.Sub(result.Refused[0].Time)
	assert.Greater(t, waited, 700*time.Millisecond, "1 s, a fifth more or less")

	later := result.After(result.Successes[1].Time)
	assert.Equal(t, result.Successes[1:], later.Successes)
	assert.Empty(t, later.Refused)
	assert.Len(t, result.After(result.Started).Refused, len(result.Refused))
}
