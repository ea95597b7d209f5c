//go:build unix

package e2e_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

// queueSize is how many requests of the load fit into the queue: it is full after
// half a second.
const queueSize = 100

// queueing is a pipeline in which the exporter's queue is all that holds data: a
// request is accepted when it is in the queue. In memory, or in a folder.
func (w *world) queueing(persistent bool) string {
	storage, extensions := "", ""
	if persistent {
		storage = ", storage: file_storage"
		extensions = fmt.Sprintf(`
extensions: {file_storage: {directory: %q, create_directory: true}}
service: {extensions: [opamp, file_storage]}`, filepath.Join(w.dir, "queue"))
	}
	return fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
exporters:
  otlp_grpc:
    endpoint: %q
    tls: {insecure: true}
    sending_queue: {queue_size: %d%s}
    retry_on_failure: {initial_interval: 100ms, max_interval: 200ms, max_elapsed_time: 0}
`, w.receiver, w.sink.Endpoint(), queueSize, storage) + extensions
}

// unbatched marks spans, and has another exporter that may fail.
func unbatched(mark, fault string) string {
	return fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}
exporters: {fault: {%s}}
service: {pipelines: {traces: {receivers: [otlp], processors: [attributes/e2e], exporters: [otlp_grpc, fault]}}}
`, markKey, mark, fault)
}

// sinkDown makes the sink refuse connections. What arrived so far is forgotten.
func (w *world) sinkDown() (up func()) {
	w.t.Helper()
	addr := w.sink.Endpoint()
	require.NoError(w.t, w.sink.Stop(patiently(w.t)))
	return func() {
		w.t.Helper()
		var err error
		w.sink, err = sink.Start(sink.Settings{Addr: addr})
		require.NoError(w.t, err)
	}
}

// full waits until the Collector refuses requests because its queue is full.
func (l *traffic) full() {
	l.w.t.Helper()
	accepted := l.Progress().Accepted
	require.GreaterOrEqual(l.w.t, accepted, uint64(queueSize)/2, "what the queue has taken")
	refused := l.Progress().Refused
	eventually(l.w.t, func() bool { return l.Progress().Refused > refused+queueSize/2 }, "the queue must be full")
}

// What was accepted while the exporter's destination is down waits in its queue. A
// persistent queue keeps it, whatever becomes of the process; one in memory loses
// it at each of these events (docs/data-safety.md).
func TestFullQueueWhileTheDestinationIsDown(t *testing.T) {
	t.Parallel()
	// offered is an event that is caused by an offer.
	offered := func(yaml string, verdict protobufs.RemoteConfigStatuses) func(*collector, opampserver.Agent, []string) *collector {
		return func(c *collector, agent opampserver.Agent, _ []string) *collector {
			c.w.await(agent, c.w.offer(yaml), verdict)
			c.requireAlive()
			return c
		}
	}
	const hangsInShutdown = "retiring configuration hangs"
	for name, event := range map[string]func(c *collector, agent opampserver.Agent, args []string) *collector{
		"reload":             offered(unbatched("next", ""), applied),
		"rollback by reload": offered(unbatched("bad", "after: 1ms, then: permanent_error"), failed),
		"re-execution":       offered(unbatched("bad", "fail_start: true"), failed),
		hangsInShutdown:      offered(unbatched("next", "hang_shutdown: false"), applied),
		"hang in Start":      offered(unbatched("bad", "hang_start: true"), failed),
		"stop and start": func(c *collector, _ opampserver.Agent, args []string) *collector {
			c.stop()
			return c.w.start(args)
		},
		"kill and start": func(c *collector, _ opampserver.Agent, args []string) *collector {
			c.kill()
			return c.w.start(args)
		},
	} {
		for _, persistent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, persistent=%t", name, persistent), func(t *testing.T) {
				t.Parallel()
				timeout := 2 * time.Second // for what hangs alone, if nothing is slow
				if slow() {
					timeout *= 4
				}
				w := newWorld(t, options{rollout: fmt.Sprintf("{apply_timeout: %[1]s, drain_timeout: %[1]s}", timeout)})
				local := ""
				if name == hangsInShutdown {
					local = "hang_shutdown: true"
				}
				args := []string{
					w.layer("extension.yaml", w.extension()),
					w.layer("queue.yaml", w.queueing(persistent)),
					w.layer("pipeline.yaml", unbatched("local", local)),
					w.layer("rollout.yaml", "extensions: {opamp: {rollout: "+w.options.rollout+"}}"),
					w.remote(),
				}
				c := w.start(args)
				agent := w.managed()
				up := w.sinkDown()
				l := w.load(w.receiver)
				eventually(t, func() bool { return l.Progress().Accepted >= queueSize/2 }, "the queue must fill")
				l.full()
				before := l.Progress()

				begin := time.Now()
				c = event(c, agent, args)
				took := time.Since(begin)
				up()
				l.flows()
				result := l.Stop(patiently(t))
				if persistent {
					require.NoError(t, w.sink.WaitSpans(patiently(t), result.Run, result.Accepted), "nothing that was accepted is lost")
				} else {
					// What was accepted last does arrive, and what arrives is sent in
					// order: the rest is lost.
					last := result.Accepted[len(result.Accepted)-1]
					require.NoError(t, w.sink.WaitSpans(patiently(t), result.Run, []uint64{last}))
					c.stop() // so that nothing is on its way
				}
				lost := len(w.sink.Missing(result.Run, result.Accepted))
				t.Logf("the event took %s; before it %d accepted, %d refused; %d lost, %d arrived more than once",
					took.Round(time.Millisecond), before.Accepted, before.Refused, lost, w.sink.Duplicates(result.Run))
				if !persistent {
					assert.GreaterOrEqual(t, lost, queueSize, "this queue keeps more than docs/data-safety.md says")
				}
			})
		}
	}
}
