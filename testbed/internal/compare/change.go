package compare

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Change is what a change of configuration that succeeds has cost.
type Change struct {
	// InSink is the time from the offer (for the plain Collector: from the writing of
	// its file) until the first span that passed the candidate has arrived; for a
	// change of receivers, until the added receiver accepts connections.
	InSink time.Duration
	// Applied is the time from the offer until the server was told; negative when
	// there is no server.
	Applied time.Duration
	// Refused are requests of the client that connects again after 2 ms.
	Refused int
	// Gap is the longest time between two successive answers that accept;
	// PatientGap the same for the patient client.
	Gap, PatientGap time.Duration
	// Lost is the number of accepted spans that never arrived.
	Lost int
	// Connections is the number of connections that the server accepted meanwhile.
	Connections int
}

// FullChange applies a configuration with another processor, under load. It becomes
// the last known good.
func (w *World) FullChange(ctx context.Context) (Change, error) {
	w.turn++
	mark := w.mark("good")
	return w.change(ctx, candidate{}, mark, func(ctx context.Context) (time.Time, error) {
		return w.sink.WaitAttribute(ctx, markKey, mark)
	})
}

// ReceiversChange applies a configuration that only adds a receiver, to a system that
// was offered nothing before. The load goes to the receiver that does not change.
func (w *World) ReceiversChange(ctx context.Context) (Change, error) {
	w.turn++
	c := candidate{raw: fmt.Sprintf(`
receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}
service: {pipelines: {traces: {receivers: [otlp, otlp/second]}}}
`, w.spare)}
	return w.change(ctx, c, "", w.spareListens)
}

// spareListens waits until connections to the spare address are accepted.
func (w *World) spareListens(ctx context.Context) (time.Time, error) {
	const look = 2 * time.Millisecond // as often as the fast client tries
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", w.spare)
		if err == nil {
			now := time.Now()
			return now, conn.Close()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for the added receiver: %w", context.Cause(ctx))
		}
	}
}

// change applies a candidate under load; effect waits until it works.
func (w *World) change(ctx context.Context, c candidate, mark string, effect func(context.Context) (time.Time, error)) (measured Change, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, giveUp, fmt.Errorf("not within %s", giveUp))
	defer cancel()
	load, err := w.connect()
	if err != nil {
		return measured, err
	}
	begin, err := w.observe(ctx, load, c, mark, effect, &measured)
	end := time.Now()
	// Not with ctx: what was accepted is to be accounted for.
	result, patient := load.stop(context.WithoutCancel(ctx))
	if err != nil {
		return measured, err
	}
	measured.Gap, _ = result.LongestGapBetween(begin.Add(-before), end)
	_, measured.Refused = outage(result, w.settings.Rate, begin.Add(-before), end)
	if w.settings.PatientRate > 0 {
		measured.PatientGap, _ = patient.LongestGapBetween(begin.Add(-patientBefore(w.settings)), end)
	}
	waiting, cancel := context.WithTimeout(ctx, arrival)
	defer cancel()
	if err := w.sink.WaitSpans(waiting, result.Run, result.Accepted); err != nil {
		measured.Lost = len(w.sink.Missing(result.Run, result.Accepted))
	}
	return measured, nil
}

// observe makes the offer and waits until all has calmed down.
func (w *World) observe(ctx context.Context, load *clients, c candidate, mark string, effect func(context.Context) (time.Time, error), measured *Change) (begin time.Time, err error) {
	if err := load.steady(ctx); err != nil {
		return begin, err
	}
	connections := w.server.Connections()
	sent := w.offer(c, mark)
	if sent.err != nil {
		return sent.time, sent.err
	}
	seen, err := effect(ctx)
	if err != nil {
		return sent.time, err
	}
	measured.InSink = seen.Sub(sent.time)
	measured.Applied = -1
	if w.system.Managed {
		status, err := w.verdict(ctx, sent)
		if err != nil {
			return sent.time, err
		}
		if status.verdict != applied {
			return sent.time, fmt.Errorf("a good configuration was rejected: %s", status.message)
		}
		measured.Applied = status.time.Sub(sent.time)
	}
	if mark != "" {
		w.good = mark
	}
	if err := load.steady(ctx); err != nil {
		return sent.time, err
	}
	measured.Connections = w.server.Connections() - connections
	return sent.time, nil
}

// signal gives a configuration to a Collector that is not managed.
func (w *World) signal(text string) offered {
	sent := offered{time: time.Now()}
	// Renamed, so that a half-written file is never read.
	path := filepath.Join(w.dir, remoteName)
	if _, err := w.write(remoteName+".next", "%s", text); err != nil {
		sent.err = err
		return sent
	}
	if err := os.Rename(path+".next", path); err != nil {
		sent.err = fmt.Errorf("replacing a configuration: %w", err)
		return sent
	}
	sent.err = w.service.running().Signal(syscall.SIGHUP)
	return sent
}
