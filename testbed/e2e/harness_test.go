//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

const (
	binaryVariable = "OTELCOL_OPAMP_BINARY"
	defaultBinary  = "../../bin/otelcol-opamp-testbed"

	// patience bounds every wait for something that must happen. It is long
	// because a binary with the race detector on a busy machine is slow.
	patience = time.Minute
	// quiet is how long something that must not happen is watched for. What is
	// watched for would begin at once.
	quiet = time.Second
	// shutdownPatience is below any time after which a service manager kills.
	shutdownPatience = 30 * time.Second

	loadRate = 200 // requests per second
	// enough is a number of requests that spans several batches.
	enough = 100

	// inFlight is by how many goroutines two moments under load may differ:
	// requests and batches on their way have some. One left behind by each of
	// some 200 changes or offers would be many times that.
	inFlight = 20

	// markKey is the attribute by which the sink tells configurations apart.
	markKey = "e2e.config"

	// trialPeriod is long enough for load to pass during a trial.
	trialPeriod = 300 * time.Millisecond
)

const (
	applying = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING
	applied  = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED
	failed   = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED
)

// binary returns the path of the executable under test.
var binary = sync.OnceValues(func() (string, error) {
	path := os.Getenv(binaryVariable)
	if path == "" {
		path = defaultBinary
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("locating the binary under test: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("locating the binary under test (run `make bin/otelcol-opamp-testbed`, or set %s): %w", binaryVariable, err)
	}
	return path, nil
})

// slow reports whether the binary has the race detector: it is ten times slower
// then, and needs more memory.
var slow = sync.OnceValue(func() bool {
	path, err := binary()
	if err != nil {
		return false // whoever needs the binary will say so
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return false // not a reason to fail: only bounds depend on it
	}
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// patiently returns a context for waits.
func patiently(t *testing.T) context.Context { return bounded(t, patience) }

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls a condition that nothing announces.
func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, patience, 10*time.Millisecond, message)
}

// options say how a world differs from the usual one.
type options struct {
	// transport is WebSocket if empty.
	transport opampserver.Transport
	// tls makes the server speak TLS, with a certificate that only its own CA
	// vouches for.
	tls bool
	// noServer means that the test starts the server itself, with
	// world.startServer.
	noServer bool
	// rollout is merged over the short times below, as a YAML flow map.
	rollout string
	// sink are the settings of the sink.
	sink sink.Settings
	// server are further settings of the server, but its address.
	server opampserver.Settings
}

// longTrial is a setting for options.rollout with time to do something during the
// trial.
func longTrial() string {
	period := 3 * time.Second
	if slow() {
		period *= 3
	}
	return fmt.Sprintf("{trial_period: %s}", period)
}

// world is what surrounds one Collector: the server that manages it, the sink
// behind it and the folder it lives in.
type world struct {
	t        *testing.T
	options  options
	server   *opampserver.Server // nil until started
	settings opampserver.Settings
	sink     *sink.Sink
	dir      string
	state    string // the state_dir parameter
	receiver string // address of the OTLP receiver
	endpoint string // of the OpAMP server
	caFile   string // empty without TLS
	// secrets must not occur in any log.
	secrets []string
}

func newWorld(t *testing.T, o options) *world {
	w := &world{t: t, options: o, dir: t.TempDir(), settings: o.server}
	w.state = filepath.Join(w.dir, "state")
	w.receiver = freeAddr(t)
	scheme := "ws"
	if o.transport == opampserver.HTTP {
		scheme = "http"
	}
	if o.tls {
		w.settings.TLS, w.caFile = selfSigned(t, w.dir)
	}
	if w.settings.TLS != nil {
		scheme += "s"
	}
	var err error
	w.sink, err = sink.Start(o.sink)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.sink.Stop(cleanupContext(t))) })
	if o.noServer {
		w.settings.Addr = freeAddr(t)
	} else {
		w.startServer()
		w.settings.Addr = w.server.Addr() // also when it is started again
	}
	w.endpoint = scheme + "://" + w.settings.Addr + "/v1/opamp"
	t.Cleanup(func() {
		if w.server == nil {
			return
		}
		if t.Failed() {
			t.Logf("the last messages of the OpAMP server:\n%s", w.server.Timeline("", 80))
		}
		assert.NoError(t, w.server.Stop(cleanupContext(t)))
	})
	return w
}

// cleanupContext is for the time after the test's own context has ended.
func cleanupContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownPatience)
	t.Cleanup(cancel)
	return ctx
}

func freeAddr(t *testing.T) string {
	addr, err := otelcol.FreeAddr()
	require.NoError(t, err)
	return addr
}

// startServer starts the OpAMP server, or starts it again after stopServer.
func (w *world) startServer() {
	w.t.Helper()
	// A port that was let go of a moment ago may not be free at once.
	var err error
	if !assert.Eventually(w.t, func() bool {
		var server *opampserver.Server
		if server, err = opampserver.Start(w.settings); err == nil {
			w.server = server
		}
		return err == nil
	}, patience, 10*time.Millisecond) {
		require.NoError(w.t, err)
	}
}

func (w *world) stopServer() {
	w.t.Helper()
	require.NoError(w.t, w.server.Stop(patiently(w.t)))
}

// extension is the configuration of the opamp extension.
func (w *world) extension() string {
	transport, more := "ws", ""
	if w.options.transport == opampserver.HTTP {
		transport, more = "http", ", polling_interval: 100ms"
	}
	if w.caFile != "" {
		more += fmt.Sprintf(", tls: {ca_file: %q}", w.caFile)
	}
	return fmt.Sprintf(`
extensions:
  opamp:
    server: {%s: {endpoint: %q%s}}
    rollout: {preflight_timeout: 60s, drain_timeout: 60s, apply_timeout: 60s, trial_period: %s}
service:
  extensions: [opamp]
  telemetry: {metrics: {level: none}}
`, transport, w.endpoint, more, trialPeriod)
}

// pipeline is a configuration that takes traces from the load to the sink.
func (w *world) pipeline() string {
	return fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
processors:
  batch: {timeout: 50ms}
exporters:
  otlp_grpc: {endpoint: %q, tls: {insecure: true}}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
`, w.receiver, w.sink.Endpoint())
}

// block returns a block of a page of the documentation, with what is special to
// the machine replaced. Every text to be replaced must be there.
func block(t *testing.T, page, name string, replace map[string]string) string {
	t.Helper()
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(content), "<!-- tested by testbed/e2e: "+name+" -->\n```yaml\n")
	require.Truef(t, ok, "%s must have the block %q", page, name)
	text, _, ok := strings.Cut(after, "\n```\n")
	require.Truef(t, ok, "the block %q must have an end", name)
	for from, to := range replace {
		require.Containsf(t, text, from, "the block %q", name)
		text = strings.ReplaceAll(text, from, to)
	}
	return text + "\n"
}

// marking is a configuration that marks every span that passes with a value.
func marking(value string) string {
	return fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}
service: {pipelines: {traces: {processors: [attributes/e2e, batch]}}}
`, markKey, value)
}

// layer writes a file and returns the argument that makes it a layer of the
// local configuration.
func (w *world) layer(name, yaml string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.WriteFile(path, []byte(yaml), 0o600))
	return "--config=" + path
}

// remote is the argument that lets the server configure the Collector.
func (w *world) remote() string { return "--config=opamp:?state_dir=" + w.state }

// args are the arguments of the usual Collector: local layers, those of the test
// among them, and the remote one.
func (w *world) args(layers ...string) []string {
	args := []string{w.layer("extension.yaml", w.extension()), w.layer("pipeline.yaml", w.pipeline())}
	if w.options.rollout != "" {
		args = append(args, w.layer("rollout.yaml", "extensions: {opamp: {rollout: "+w.options.rollout+"}}"))
	}
	return append(append(args, layers...), w.remote())
}

// managed waits until the Collector runs and has reported what it runs and that
// it is well.
func (w *world) managed() opampserver.Agent {
	w.t.Helper()
	agent, err := w.server.WaitFor(patiently(w.t), "", func(a opampserver.Agent) bool {
		return a.Connected && a.Identifying != nil && a.Health.GetHealthy() && a.EffectiveConfig != nil
	})
	require.NoError(w.t, err)
	return agent
}

// offer offers a configuration to every agent and returns its hash.
func (w *world) offer(yaml string) []byte { return w.server.Offer("", opampserver.YAML(yaml)) }

// await waits for the verdict on a configuration, which must be the given one, and
// returns what the server then knows.
func (w *world) await(agent opampserver.Agent, hash []byte, verdict protobufs.RemoteConfigStatuses) opampserver.Agent {
	w.t.Helper()
	a, err := w.server.WaitFor(patiently(w.t), agent.UID, func(a opampserver.Agent) bool {
		s := a.RemoteConfigStatus
		return bytes.Equal(s.Hash, hash) && (s.Status == applied || s.Status == failed)
	})
	require.NoError(w.t, err)
	require.Equal(w.t, verdict, a.RemoteConfigStatus.Status, a.RemoteConfigStatus.ErrorMessage)
	return a
}

// apply offers a configuration and waits until it is applied.
func (w *world) apply(agent opampserver.Agent, yaml string) []byte {
	w.t.Helper()
	hash := w.offer(yaml)
	w.await(agent, hash, applied)
	return hash
}

// awaitEffective waits until the configuration that the agent reports to run
// contains a text.
func (w *world) awaitEffective(agent opampserver.Agent, text string) {
	w.t.Helper()
	_, err := w.server.WaitFor(patiently(w.t), agent.UID, func(a opampserver.Agent) bool {
		return strings.Contains(a.EffectiveConfig[""], text)
	})
	require.NoErrorf(w.t, err, "the effective configuration must contain %q", text)
}

// status is a status of a remote configuration, as reported in a message.
type status struct {
	hash    string
	state   protobufs.RemoteConfigStatuses
	message string
}

// statuses are the changes of status that were reported from a message on:
// repetitions, which the protocol allows, are left out.
func (w *world) statuses(from int) []status {
	var all []status
	for _, m := range w.server.MessagesFrom(from) {
		r := m.Received.GetRemoteConfigStatus()
		if r == nil {
			continue
		}
		s := status{hex.EncodeToString(r.GetLastRemoteConfigHash()), r.GetStatus(), r.GetErrorMessage()}
		if len(all) == 0 || all[len(all)-1] != s {
			all = append(all, s)
		}
	}
	return all
}

// states are the states of one configuration, in the order of their reports.
func (w *world) states(from int, hash []byte) []protobufs.RemoteConfigStatuses {
	var states []protobufs.RemoteConfigStatuses
	for _, s := range w.statuses(from) {
		if s.hash == hex.EncodeToString(hash) {
			states = append(states, s.state)
		}
	}
	return states
}

// requireVerdict checks how the states of a configuration were reported from a
// message on: as being applied, and then as the verdict says. A refusal may come
// so fast that both make one message.
func (w *world) requireVerdict(from int, hash []byte, verdict protobufs.RemoteConfigStatuses) {
	w.t.Helper()
	states := w.states(from, hash)
	if verdict == failed && slices.Equal(states, []protobufs.RemoteConfigStatuses{failed}) {
		return
	}
	require.Equal(w.t, []protobufs.RemoteConfigStatuses{applying, verdict}, states)
}

// requireSilence checks that no message from an index on matches, for a while.
func (w *world) requireSilence(from int, what string, match func(opampserver.Message) bool) {
	w.t.Helper()
	m, err := w.server.WaitMessage(bounded(w.t, quiet), from, match)
	if err == nil {
		require.Failf(w.t, "message that must not come", "%s: %s", what, m.Summary())
	}
	require.ErrorIs(w.t, err, context.DeadlineExceeded)
}

func reportsStatus(m opampserver.Message) bool { return m.Received.GetRemoteConfigStatus() != nil }

// requireOneSession checks that the server has seen one agent on one connection,
// whose messages are one sequence without a gap.
func (w *world) requireOneSession() {
	w.t.Helper()
	require.Len(w.t, w.server.Agents(), 1, "agents that the server knows")
	if w.options.transport == opampserver.HTTP {
		require.Equal(w.t, 1, w.server.HTTPConnections(), "TCP connections of HTTP requests")
	} else {
		require.Equal(w.t, 1, w.server.Connections(), "WebSocket connections")
	}
	next := uint64(0)
	for _, m := range w.server.Messages() {
		if m.Received == nil {
			continue
		}
		require.Equal(w.t, next, m.Received.GetSequenceNum(), "sequence number of message %d", m.Index)
		next++
	}
}

// seen waits until a span with the mark arrives at the sink.
func (w *world) seen(value string) {
	w.t.Helper()
	_, err := w.sink.WaitAttribute(patiently(w.t), markKey, value)
	require.NoErrorf(w.t, err, "no span was marked %q", value)
}

// seenFromNow is seen for a mark that was seen before.
func (w *world) seenFromNow(value string) {
	w.t.Helper()
	_, err := w.sink.WaitAttributeAfter(patiently(w.t), markKey, value, time.Now())
	require.NoErrorf(w.t, err, "no span was marked %q", value)
}

// wasSeen reports whether a span with the mark has arrived.
func (w *world) wasSeen(value string) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel() // it has arrived, or the wait ends at once
	_, err := w.sink.WaitAttribute(ended, markKey, value)
	return err == nil
}

// traffic is a steady load.
type traffic struct {
	*load.Generator
	w *world
}

// load sends to an address until the end of the test.
func (w *world) load(addr string) *traffic {
	w.t.Helper()
	g, err := load.Start(load.Settings{Endpoint: addr, Rate: loadRate})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { g.Stop(cleanupContext(w.t)) })
	return &traffic{g, w}
}

// flows waits until more requests were accepted.
func (l *traffic) flows() {
	l.w.t.Helper()
	require.NoError(l.w.t, l.WaitAccepted(patiently(l.w.t), enough))
}

// requireNothingLost ends the load and checks that whatever was accepted has
// arrived, once. Refused requests are only told of.
func (l *traffic) requireNothingLost() load.Result {
	l.w.t.Helper()
	result := l.Stop(patiently(l.w.t))
	if err := l.w.sink.WaitSpans(patiently(l.w.t), result.Run, result.Accepted); err != nil {
		require.Emptyf(l.w.t, l.w.sink.Missing(result.Run, result.Accepted), "accepted spans that never arrived: %v", err)
	}
	assert.Zero(l.w.t, l.w.sink.Duplicates(result.Run), "spans that arrived twice")
	l.w.t.Logf("load: %d requests, %d accepted, %d refused, longest gap %s",
		result.Sent, len(result.Accepted), len(result.Refused), result.LongestGap)
	for _, r := range result.Refused[:min(3, len(result.Refused))] {
		l.w.t.Logf("load: refused after %s: %v", r.Time.Sub(result.Started), r.Err)
	}
	return result
}

// file is the state of one file of a folder.
type file struct {
	mode    os.FileMode
	changed time.Time
	content string
}

// files returns everything below a folder by path.
func files(t *testing.T, dir string) map[string]file {
	t.Helper()
	found := map[string]file{}
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		f := file{mode: info.Mode(), changed: info.ModTime()}
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f.content = string(content)
		}
		found[path] = f
		return nil
	}))
	return found
}

// accepts reports whether the agent has announced a capability.
func accepts(a opampserver.Agent, c protobufs.AgentCapabilities) bool { return a.Capabilities&c != 0 }

// named are the files of an offer.
func named(files map[string]string) opampserver.Offer {
	o := opampserver.Offer{Files: map[string]opampserver.File{}}
	for name, body := range files {
		o.Files[name] = opampserver.File{Body: []byte(body), ContentType: "text/yaml"}
	}
	return o
}

// restartCommand tells an agent to restart.
func restartCommand() *protobufs.ServerToAgent {
	return &protobufs.ServerToAgent{Command: &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart}}
}

// identification gives an agent another instance UID.
func identification(uid string) *protobufs.ServerToAgent {
	id := uuid.MustParse(uid)
	return &protobufs.ServerToAgent{AgentIdentification: &protobufs.AgentIdentification{NewInstanceUid: id[:]}}
}
