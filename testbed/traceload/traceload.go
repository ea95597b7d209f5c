// Package traceload sends whole traces over OTLP/gRPC, the way a set of
// instrumented services does, and keeps account of every span.
//
// A trace has [Spans] spans, two for each of [Services] services, which end one
// after another. Each service sends the spans that have ended a batch at a time,
// to a receiver of its own choice, so that several receivers see parts of one
// trace. What is refused is sent again until it is accepted.
//
// All methods of [Generator] are safe for concurrent use.
package traceload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// Services is the number of services.
	Services = 4
	// Spans is how many spans each trace has.
	Spans = 8
)

const (
	defaultRate   = 200 // traces per second: 1600 spans, from which a lost one in a thousand is seen in seconds
	defaultLength = time.Second
	// flushInterval is how often a service sends what has ended. SDKs wait longer
	// (1 s for logs, 5 s for spans), which would only make batches larger.
	flushInterval = 100 * time.Millisecond
	// retryPause is short, so that a receiver that listens again is noticed at once.
	retryPause = 20 * time.Millisecond
	// attemptTimeout is the default of OTLP exporters.
	attemptTimeout = 10 * time.Second
	// connectTimeout bounds one attempt to connect on loopback.
	connectTimeout = time.Second
	// finestTick is the shortest useful period of a ticker; higher rates start
	// several traces per tick.
	finestTick = time.Millisecond
)

// Settings configures a [Generator].
type Settings struct {
	// Endpoints are hosts and ports of OTLP/gRPC receivers, without TLS. The
	// services are dealt to them in turn.
	Endpoints []string
	// Rate is in traces per second, 200 when zero.
	Rate float64
	// Length is the time between the ends of the first and the last span of a
	// trace, 1 s when zero.
	Length time.Duration
	// Errors is the share of traces, from 0 to 1, in which one span has the status
	// ERROR.
	Errors float64
}

// Span is the account of one span.
type Span struct {
	ID pcommon.SpanID
	// Sent is when the request was begun with which the span was accepted, and
	// Accepted when its answer came. Both are zero for one that never was.
	Sent, Accepted time.Time
}

// Trace is the account of one trace.
type Trace struct {
	ID pcommon.TraceID
	// Error says that one of the spans has the status ERROR.
	Error bool
	Spans [Spans]Span
}

// Result is the account of a stopped generator. It belongs to the caller, but all
// calls of Stop return the same slice.
type Result struct {
	// Traces are all traces, in the order of their beginnings.
	Traces []*Trace
	// Requests were accepted; Refused were not, and their spans were sent again.
	Requests, Refused uint64
}

// Generator sends traces until it is stopped.
type Generator struct {
	settings Settings
	started  time.Time
	services [Services]*service

	stopPacing context.CancelFunc
	paced      sync.WaitGroup // the pace loop
	abort      context.CancelCauseFunc
	running    sync.WaitGroup
	once       sync.Once
	result     Result // set by once

	requests, refused atomic.Uint64

	mu sync.Mutex
	// mu guards everything below.
	traces  []*Trace
	changed chan struct{} // closed and replaced when a trace begins
}

// Start begins to send. It does not wait for a connection.
func Start(settings Settings) (*Generator, error) {
	settings.Rate = cmp.Or(settings.Rate, defaultRate)
	settings.Length = cmp.Or(settings.Length, defaultLength)
	if settings.Rate < 0 || len(settings.Endpoints) == 0 {
		return nil, fmt.Errorf("starting load: rate must be positive (is %g) and there must be endpoints (are %d)", settings.Rate, len(settings.Endpoints))
	}
	g := &Generator{settings: settings, started: time.Now(), changed: make(chan struct{})}
	for i := range g.services {
		conn, err := grpc.NewClient("passthrough:///"+settings.Endpoints[i%len(settings.Endpoints)],
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDisableServiceConfig(),
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: retryPause, Multiplier: 1, MaxDelay: retryPause},
				MinConnectTimeout: connectTimeout,
			}),
		)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("starting load: %w", err)
		}
		g.services[i] = &service{g: g, name: fmt.Sprintf("service-%d", i), conn: conn, client: ptraceotlp.NewGRPCClient(conn)}
	}
	// Sending outlives the pacing: two contexts.
	pacing, stopPacing := context.WithCancel(context.Background())
	g.stopPacing = stopPacing
	sending, abort := context.WithCancelCause(context.Background())
	g.abort = abort
	g.paced.Go(func() { g.pace(pacing) })
	for _, s := range g.services {
		g.running.Go(func() { s.run(pacing, sending) })
	}
	return g, nil
}

// pace begins as many traces as the clock says are due.
func (g *Generator) pace(ctx context.Context) {
	ticker := time.NewTicker(max(time.Duration(float64(time.Second)/g.settings.Rate), finestTick))
	defer ticker.Stop()
	begun := 0
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		// By the clock and not one per tick: a late ticker drops ticks.
		due := int(time.Since(g.started).Seconds() * g.settings.Rate)
		for ; begun < due; begun++ {
			g.begin()
		}
	}
}

// begin begins a trace: it plans the spans of all services.
func (g *Generator) begin() {
	now := time.Now()
	trace := &Trace{ID: randomID(), Error: rand.Float64() < g.settings.Errors} //nolint:gosec // not a secret
	faulty := -1
	if trace.Error {
		faulty = rand.IntN(Spans) //nolint:gosec // as above
	}
	for i := range trace.Spans {
		trace.Spans[i].ID = pcommon.SpanID{1, byte(i)} // within the trace; must not be zero
		// The root, which is the first one, ends last.
		end := now.Add(g.settings.Length * time.Duration((i+Spans-1)%Spans) / (Spans - 1))
		g.services[i%Services].plan(planned{trace: trace, index: i, start: now, end: end, faulty: i == faulty})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.traces = append(g.traces, trace)
	close(g.changed)
	g.changed = make(chan struct{})
}

func randomID() (id pcommon.TraceID) {
	for i := range id {
		id[i] = byte(rand.Uint32()) //nolint:gosec // identifiers, not secrets
	}
	return id
}

// WaitTraces waits until n more traces have begun than at the time of the call.
func (g *Generator) WaitTraces(ctx context.Context, n int) error {
	before := -1
	for {
		g.mu.Lock()
		changed, begun := g.changed, len(g.traces)
		g.mu.Unlock()
		if before < 0 {
			before = begun
		}
		if begun >= before+n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d traces (%d have begun): %w", n, begun-before, context.Cause(ctx))
		}
	}
}

// Stop begins no more traces, waits until all spans of those that have begun are
// accepted, and returns the account. When ctx ends first, the rest is given up.
// Later calls return the same result.
func (g *Generator) Stop(ctx context.Context) Result {
	g.once.Do(func() {
		g.stopPacing()
		ended := make(chan struct{})
		go func() {
			g.running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-ctx.Done():
			g.abort(context.Cause(ctx))
			<-ended
		}
		g.abort(nil)
		g.close()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.result = Result{Traces: g.traces, Requests: g.requests.Load(), Refused: g.refused.Load()}
	})
	return g.result
}

func (g *Generator) close() {
	for _, s := range g.services {
		if s != nil {
			_ = s.conn.Close() // fails only when called twice
		}
	}
}

// planned is a span that is sent when it has ended.
type planned struct {
	trace      *Trace
	index      int
	start, end time.Time
	faulty     bool
}

// service is one instrumented service.
type service struct {
	g      *Generator
	name   string
	conn   *grpc.ClientConn
	client ptraceotlp.GRPCClient

	mu sync.Mutex
	// mu guards everything below.
	planned []planned
}

func (s *service) plan(p planned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planned = append(s.planned, p)
}

// ended takes out the spans that have ended and says how many have not.
func (s *service) ended(now time.Time) (batch []planned, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var later []planned
	for _, p := range s.planned {
		if p.end.After(now) {
			later = append(later, p)
		} else {
			batch = append(batch, p)
		}
	}
	s.planned = later
	return batch, len(later)
}

// run sends batches, one at a time, until the pacing has stopped and nothing is
// left, or sending has ended.
func (s *service) run(pacing, sending context.Context) {
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-sending.Done():
			return
		}
		last := pacing.Err() != nil
		if last {
			s.g.paced.Wait() // or one more trace may be planned after the look
		}
		batch, left := s.ended(time.Now())
		if len(batch) > 0 {
			s.send(sending, batch)
		} else if last && left == 0 {
			return
		}
	}
}

// send sends a batch until it is accepted or ctx has ended.
func (s *service) send(ctx context.Context, batch []planned) {
	request := ptraceotlp.NewExportRequestFromTraces(s.payload(batch))
	for {
		sent := time.Now()
		if err := s.attempt(ctx, request); err == nil {
			s.g.requests.Add(1)
			accepted := time.Now()
			for _, p := range batch {
				span := &p.trace.Spans[p.index] // of this service alone
				span.Sent, span.Accepted = sent, accepted
			}
			return
		}
		s.g.refused.Add(1)
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return
		}
	}
}

// errPartial is the error of a request of which some spans were rejected.
var errPartial = errors.New("spans rejected")

func (s *service) attempt(ctx context.Context, request ptraceotlp.ExportRequest) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := s.client.Export(ctx, request)
	if err == nil && answer.PartialSuccess().RejectedSpans() > 0 {
		err = errPartial
	}
	return err
}

// payload builds a request.
func (s *service) payload(batch []planned) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", s.name)
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	for _, p := range batch {
		span := spans.AppendEmpty()
		span.SetName("work")
		span.SetTraceID(p.trace.ID)
		span.SetSpanID(p.trace.Spans[p.index].ID)
		if p.index > 0 {
			span.SetParentSpanID(p.trace.Spans[0].ID)
		}
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(p.start))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(p.end))
		if p.faulty {
			span.Status().SetCode(ptrace.StatusCodeError)
		}
	}
	return td
}
