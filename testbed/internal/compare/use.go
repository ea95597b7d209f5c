package compare

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

// Use is what a system takes of the machine: all its processes together.
type Use struct {
	otelcol.Use
	// CPU is the share of one processor, 1 for all of it, while it was watched.
	CPU float64
}

// use returns what the system takes; the CPU share is since begin, at which its CPU
// time was spent.
func (w *World) use(begin time.Time, spent time.Duration) (Use, error) {
	u, err := w.service.running().Use()
	if err != nil {
		return Use{}, err
	}
	return Use{Use: u, CPU: float64(u.CPU-spent) / float64(time.Since(begin))}, nil
}

// WatchIdle returns what systems take that have no load, watched together for d.
func WatchIdle(ctx context.Context, worlds []*World, d time.Duration) ([]Use, error) {
	begin := make([]time.Time, len(worlds))
	spent := make([]time.Duration, len(worlds))
	for i, w := range worlds {
		u, err := w.service.running().Use()
		if err != nil {
			return nil, err
		}
		begin[i], spent[i] = time.Now(), u.CPU
	}
	if err := pause(ctx, d); err != nil {
		return nil, err
	}
	uses := make([]Use, len(worlds))
	for i, w := range worlds {
		var err error
		if uses[i], err = w.use(begin[i], spent[i]); err != nil {
			return nil, err
		}
	}
	return uses, nil
}

// UnderLoad is what a system takes, and does, under load.
type UnderLoad struct {
	Use Use
	// P99 is the latency that 99 of 100 requests did not exceed, at Settings.Rate.
	P99 time.Duration
	// Throughput is in spans per second, as many as get through.
	Throughput float64
}

// warm is how long a load goes on before it is measured: connections are made and
// the first batches are through.
const warm = 500 * time.Millisecond

// WatchLoad watches a system for d under the steady load, and for d with as much load
// as it takes.
func (w *World) WatchLoad(ctx context.Context, d time.Duration) (u UnderLoad, err error) {
	generator, err := load.Start(load.Settings{Endpoint: w.otlp, Rate: w.settings.Rate})
	if err != nil {
		return u, err
	}
	var from time.Time
	u.Use, from, err = w.watchSteady(ctx, d)
	stopping, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	result := generator.Stop(stopping)
	if err != nil {
		return u, err
	}
	u.P99 = result.After(from).Latency(0.99)
	if u.Throughput, err = w.saturate(ctx, d); err != nil {
		return u, err
	}
	return u, nil
}

// watchSteady waits for warm and d, and returns what was taken during d, and when it
// began.
func (w *World) watchSteady(ctx context.Context, d time.Duration) (Use, time.Time, error) {
	if err := pause(ctx, warm); err != nil {
		return Use{}, time.Time{}, err
	}
	begun, err := w.service.running().Use()
	if err != nil {
		return Use{}, time.Time{}, err
	}
	from := time.Now()
	if err := pause(ctx, d); err != nil {
		return Use{}, from, err
	}
	u, err := w.use(from, begun.CPU)
	return u, from, err
}

const (
	// batchSpans and senders make the Collector the slowest part: many spans in a
	// request, and more requests at a time than there are processors.
	batchSpans, senders = 100, 8
	// calm is how long nothing arrives when all that was sent is through: several
	// times the timeout of the batch processor.
	calm = 200 * time.Millisecond
)

// saturate sends as much as is accepted and returns how many spans arrive per second.
func (w *World) saturate(ctx context.Context, d time.Duration) (float64, error) {
	conn, err := grpc.NewClient("passthrough:///"+w.otlp, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return 0, fmt.Errorf("connecting: %w", err)
	}
	sending, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var failures atomic.Pointer[error]
	for range senders {
		workers.Go(func() {
			client, request := ptraceotlp.NewGRPCClient(conn), manySpans()
			for sending.Err() == nil {
				if _, err := client.Export(sending, request); err != nil && sending.Err() == nil {
					failures.Store(&err)
					return
				}
			}
		})
	}
	err = pause(ctx, warm)
	before, begin := w.sink.Spans(), time.Now()
	if err == nil {
		err = pause(ctx, d)
	}
	arrived, took := w.sink.Spans()-before, time.Since(begin)
	stop()
	workers.Wait()
	err = errors.Join(err, conn.Close())
	if failed := failures.Load(); failed != nil {
		err = errors.Join(err, fmt.Errorf("a request was refused: %w", *failed))
	}
	if err != nil {
		return 0, err
	}
	return float64(arrived) / took.Seconds(), w.calmDown(ctx)
}

// calmDown waits until nothing more arrives: what is measured next must not share the
// machine with it.
func (w *World) calmDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		before := w.sink.Spans()
		if err := pause(ctx, calm); err != nil {
			return err
		}
		if w.sink.Spans() == before {
			return nil
		}
	}
}

// manySpans is a request of batchSpans spans. They are all alike and belong to no
// account.
func manySpans() ptraceotlp.ExportRequest {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", load.ServiceName)
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	for i := range batchSpans {
		span := spans.AppendEmpty()
		span.SetName("load")
		span.SetKind(ptrace.SpanKindInternal)
		span.SetTraceID([16]byte{1, byte(i)})
		span.SetSpanID([8]byte{1, byte(i)})
		span.Attributes().PutStr("http.request.method", "GET")
	}
	return ptraceotlp.NewExportRequestFromTraces(td)
}
