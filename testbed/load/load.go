// Package load sends traces over OTLP/gRPC at a fixed rate and keeps account of
// every request.
//
// Each request carries one span with a number of its own, so that a receiver can
// be asked which of the accepted spans never arrived. The load is open loop:
// requests are started by the clock, whatever became of the earlier ones, and a
// refused request is not tried again. (The one exception is in the gRPC library
// and cannot be switched off: a request of which not one byte was sent, or which
// the server declared unprocessed, is sent once more. It is never accepted twice.)
//
// All methods of [Generator] are safe for concurrent use.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// Attributes and the service name of the spans.
const (
	SeqAttribute = "load.seq" // int: the sequence number
	RunAttribute = "load.run" // string: Settings.Run
	ServiceName  = "load"
)

const (
	defaultRate = 500 // requests per second, the load of the project's benchmarks
	// defaultTimeout is longer than a reload takes, so that a request which a
	// draining Collector still answers is not counted as refused.
	defaultTimeout = 5 * time.Second
	// defaultBackoff makes a Collector that listens again noticed at once.
	defaultBackoff = 2 * time.Millisecond
	// connectTimeout bounds one attempt to connect on loopback.
	connectTimeout = time.Second
	// maxInFlight bounds memory when a Collector accepts and never answers.
	maxInFlight = 10_000
	// finestTick is the shortest useful period of a ticker; higher rates send
	// several requests per tick.
	finestTick = time.Millisecond
)

// ErrOverload is the error of a request that was not sent because 10,000 others
// are waiting for an answer.
var ErrOverload = errors.New("too many requests in flight")

// ErrPartial is the error of a request of which the answer says that the span was
// rejected.
var ErrPartial = errors.New("span rejected")

// Settings configures a [Generator].
type Settings struct {
	// Endpoint is the host and port of the OTLP/gRPC receiver, without TLS.
	Endpoint string
	// Rate is in requests per second, 500 when zero.
	Rate float64
	// Run marks the spans of this generator, a random text when empty.
	Run string
	// Timeout is for each request, 5 s when zero.
	Timeout time.Duration
	// Backoff is the constant pause between attempts to connect, 2 ms when zero.
	Backoff time.Duration
	// DefaultBackoff makes the pauses those that gRPC has by default, instead of
	// Backoff: 1 s after the first attempt that failed, then more.
	DefaultBackoff bool
}

// Progress has the counters of a running generator.
type Progress struct {
	Sent, Accepted, Refused uint64
}

// Generator sends requests until it is stopped.
type Generator struct {
	settings Settings
	conn     *grpc.ClientConn
	client   ptraceotlp.GRPCClient
	started  time.Time

	stopPacing context.CancelFunc
	paced      sync.WaitGroup // the pace loop
	abort      context.CancelCauseFunc
	requests   sync.WaitGroup // requests in flight
	inFlight   atomic.Int64
	once       sync.Once
	result     Result // set by once

	mu sync.Mutex
	// mu guards everything below.
	sent      uint64
	successes []Success
	refused   []Refusal
	changed   chan struct{} // closed and replaced at each success
}

// Start begins to send. It does not wait for a connection.
func Start(settings Settings) (*Generator, error) {
	settings.Rate = cmp.Or(settings.Rate, defaultRate)
	settings.Timeout = cmp.Or(settings.Timeout, defaultTimeout)
	settings.Backoff = cmp.Or(settings.Backoff, defaultBackoff)
	if settings.Run == "" {
		settings.Run = uuid.NewString()
	}
	if settings.Rate < 0 {
		return nil, fmt.Errorf("starting load: rate must be positive, is %g", settings.Rate)
	}
	pauses := backoff.Config{BaseDelay: settings.Backoff, Multiplier: 1, MaxDelay: settings.Backoff}
	if settings.DefaultBackoff {
		pauses = backoff.DefaultConfig
	}
	conn, err := grpc.NewClient("passthrough:///"+settings.Endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(false)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           pauses,
			MinConnectTimeout: connectTimeout,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("starting load: %w", err)
	}
	// Requests outlive the pacing: two contexts.
	pacing, stopPacing := context.WithCancel(context.Background())
	sending, abort := context.WithCancelCause(context.Background())
	g := &Generator{
		settings:   settings,
		conn:       conn,
		client:     ptraceotlp.NewGRPCClient(conn),
		started:    time.Now(),
		stopPacing: stopPacing,
		abort:      abort,
		changed:    make(chan struct{}),
	}
	g.paced.Go(func() { g.pace(pacing, sending) })
	return g, nil
}

// Run is the value of the attribute load.run of this generator's spans.
func (g *Generator) Run() string { return g.settings.Run }

// pace starts as many requests as the clock says are due.
func (g *Generator) pace(pacing, sending context.Context) {
	ticker := time.NewTicker(max(time.Duration(float64(time.Second)/g.settings.Rate), finestTick))
	defer ticker.Stop()
	seq := uint64(0)
	for {
		select {
		case <-ticker.C:
		case <-pacing.Done():
			return
		}
		// By the clock and not one per tick: a late ticker drops ticks.
		due := uint64(time.Since(g.started).Seconds() * g.settings.Rate)
		for ; seq < due; seq++ {
			g.launch(sending, seq+1)
		}
	}
}

// launch sends the request with this number, from 1, in a goroutine.
func (g *Generator) launch(ctx context.Context, seq uint64) {
	g.mu.Lock()
	g.sent++
	g.mu.Unlock()
	if g.inFlight.Add(1) > maxInFlight {
		g.inFlight.Add(-1)
		g.refuse(seq, ErrOverload)
		return
	}
	g.requests.Go(func() {
		defer g.inFlight.Add(-1)
		begun := time.Now()
		if err := g.send(ctx, seq); err != nil {
			g.refuse(seq, err)
			return
		}
		g.accept(seq, begun)
	})
}

func (g *Generator) send(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, g.settings.Timeout)
	defer cancel()
	answer, err := g.client.Export(ctx, ptraceotlp.NewExportRequestFromTraces(makeSpan(g.settings.Run, seq)))
	if err != nil {
		return err
	}
	if partial := answer.PartialSuccess(); partial.RejectedSpans() > 0 {
		return fmt.Errorf("%w: %s", ErrPartial, partial.ErrorMessage())
	}
	return nil
}

func (g *Generator) accept(seq uint64, begun time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.successes = append(g.successes, Success{Seq: seq, Time: now, Latency: now.Sub(begun)})
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Generator) refuse(seq uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = append(g.refused, Refusal{Seq: seq, Time: time.Now(), Err: err})
}

// Progress returns the counters so far.
func (g *Generator) Progress() Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Progress{Sent: g.sent, Accepted: uint64(len(g.successes)), Refused: uint64(len(g.refused))}
}

// WaitAccepted waits until n more requests have been accepted than at the time
// of the call.
func (g *Generator) WaitAccepted(ctx context.Context, n uint64) error {
	before := g.Progress()
	for {
		g.mu.Lock()
		changed, accepted := g.changed, uint64(len(g.successes))
		g.mu.Unlock()
		if accepted >= before.Accepted+n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d accepted requests (%d accepted, %s): %w",
				n, accepted-before.Accepted, g.refusals(before.Refused), context.Cause(ctx))
		}
	}
}

// refusals describes what was refused after the first ones.
func (g *Generator) refusals(after uint64) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	later := g.refused[after:]
	if len(later) == 0 {
		return "none refused"
	}
	return fmt.Sprintf("%d refused, last: %v", len(later), later[len(later)-1].Err)
}

// Stop ends the sending, waits for the requests in flight and returns the
// account. When ctx ends first, those requests are abandoned and count as
// refused. Later calls return the same result.
func (g *Generator) Stop(ctx context.Context) Result {
	g.once.Do(func() {
		g.stopPacing()
		g.paced.Wait()
		answered := make(chan struct{})
		go func() {
			g.requests.Wait()
			close(answered)
		}()
		select {
		case <-answered:
		case <-ctx.Done():
			g.abort(context.Cause(ctx))
			<-answered
		}
		g.abort(nil)
		_ = g.conn.Close() // fails only when called twice
		g.mu.Lock()
		defer g.mu.Unlock()
		g.result = newResult(g.settings.Run, g.started, g.sent, g.successes, g.refused)
	})
	return g.result
}
