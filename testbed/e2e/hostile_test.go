//go:build unix

package e2e_test

import (
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	// hostileMemory is how much more memory a process may have while it is
	// attacked than before: two of the largest messages that are accepted.
	hostileMemory = 32 << 20
	// hostileRate is that of the load of one Collector, in requests per second:
	// several run at once.
	hostileRate = 25
	// together is how many Collectors are attacked at once: half of them, as with
	// two cores the start of more would be what takes the time.
	together = 13

	// attackTime is long enough for some reconnects.
	attackTime = 4 * time.Second
	// comeBack is until when an honest server must have the agent back: the longest
	// pause between two attempts is a minute, and the rest is for a busy machine.
	comeBack = 90 * time.Second

	// connectionsPerMinute is how often an agent may come back to a server that
	// accepts and ends its connections, once the first few are through: a server
	// with 10,000 such agents has 167 connections per second.
	connectionsPerMinute = 60
	firstConnections     = 10
	// measured is for how long connections are counted, and closing how long they
	// are closed. The longer that is, the longer the agent then stays away.
	measured = 6 * time.Second
	closing  = measured + time.Second

	// hostileOffers, one each hostilePace, make ten seconds; offering is more.
	hostileOffers = 1000
	hostilePace   = 10 * time.Millisecond
	offering      = 12 * time.Second
	// mostApplies is how many of them may be applied: each is in trial for the
	// trialPeriod of these tests, 300 ms, and there is one before and one after.
	mostApplies = int(offering/trialPeriod) + 2
)

// hostileCase is an attack over one transport.
type hostileCase struct {
	name      string
	transport opampserver.Transport
	attack    attack
	time      time.Duration // attackTime if 0
	// layer is one more of the local configuration.
	layer string
	// check is done after the attack; and back when an honest server has the
	// agent back.
	check func(t *testing.T, h *hostile)
	back  func(t *testing.T, w *world, agent opampserver.Agent, c *collector)
}

// Whatever a server does: memory is bounded, the data path refuses nothing, and an
// honest server gets the agent back.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	slots := make(chan struct{}, together)
	var running sync.WaitGroup
	for _, c := range hostileCases(t) {
		name := c.name + " over " + map[opampserver.Transport]string{"": "WebSocket", opampserver.HTTP: "HTTP"}[c.transport]
		// Not t.Parallel: that many would run at once as there are cores, and they
		// mostly wait.
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(name, func(t *testing.T) { c.run(t, strings.TrimPrefix(other.URL, "http")) })
		})
	}
	running.Wait()
	assert.Zero(t, elsewhere.Load(), "requests that went to where a redirect pointed")
}

func (c hostileCase) run(t *testing.T, elsewhere string) {
	w := newWorld(t, options{transport: c.transport})
	profiles := freeAddr(t)
	process := w.start(append(w.args(
		w.layer("profiles.yaml", fmt.Sprintf("extensions: {fault: {pprof: %q}}\nservice: {extensions: [opamp, fault]}", profiles)),
		w.layer("case.yaml", c.layer),
	), "--feature-gates=service.partialReload,service.partialReloadReceivers"))
	agent := w.managed()
	generator, err := load.Start(load.Settings{Endpoint: w.receiver, Rate: hostileRate})
	require.NoError(t, err)
	t.Cleanup(func() { generator.Stop(cleanupContext(t)) })
	l := &traffic{generator, w}
	require.NoError(t, l.WaitAccepted(patiently(t), hostileRate))
	before, goroutines := process.usage(), w.goroutines(profiles)
	uid := uuid.MustParse(agent.UID)

	w.stopServer()
	h := startHostile(t, w.settings.Addr, elsewhere, uid[:], c.attack)
	eventually(t, func() bool { _, contacts, _ := h.counts(); return contacts > 0 }, "the agent must come to the hostile server")
	length := c.time
	if length == 0 {
		length = attackTime
	}
	end, ticker := time.After(length), time.NewTicker(20*time.Millisecond)
	defer ticker.Stop()
	most := before.memory
	for attacked := true; attacked; {
		select {
		case <-ticker.C:
			memory, err := process.RSS()
			require.NoError(t, err)
			most = max(most, memory)
		case <-end:
			attacked = false
		}
	}
	process.requireAlive()
	h.close()
	connections, contacts, messages := h.counts()
	t.Logf("memory %d MiB before, at most %d MiB more; %d connections, %d requests, %d messages",
		before.memory>>20, (most-before.memory)>>20, connections, contacts, messages)
	allowed := int64(hostileMemory)
	if slow() {
		allowed *= 10 // what the race detector needs besides, for each byte
	}
	assert.LessOrEqual(t, most, before.memory+allowed, "resident memory during the attack")
	if c.check != nil {
		c.check(t, h)
	}

	begin := time.Now()
	w.startServer()
	_, err = w.server.WaitFor(bounded(t, comeBack), agent.UID, func(a opampserver.Agent) bool {
		return a.Connected && a.Identifying != nil && a.Health.GetHealthy() && a.EffectiveConfig != nil
	})
	require.NoError(t, err, "an honest server must get the agent back")
	t.Logf("an honest server had the agent back after %s", time.Since(begin).Round(time.Millisecond))
	if c.back != nil {
		c.back(t, w, agent, process)
	}
	eventually(t, func() bool { return w.goroutines(profiles) <= goroutines+inFlight }, "goroutines must not grow")
	require.NoError(t, l.WaitAccepted(patiently(t), hostileRate))
	assert.Empty(t, l.requireNothingLost().Refused, "the data path must refuse nothing")
}

// hostileCases are all attacks over the transports that they are for.
func hostileCases(t *testing.T) []hostileCase {
	t.Helper()
	const bomb = 64 << 20
	small, err := deflated(bomb)
	require.NoError(t, err)
	chunk := make([]byte, 64<<10)
	cases := []hostileCase{ // what takes longest comes first
		{name: "accept then close, with a handshake", time: closing, check: boundedConnections, attack: attack{webSocket: func(*hostile, net.Conn) {}}},
		{name: "zeros that were not agreed to be compressed", attack: attack{webSocket: repeated(final|binaryFrame|compressed, small)}},
		{name: "compressed zeros", attack: attack{
			webSocket: repeated(final|binaryFrame|compressed, small),
			handshake: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
		}},
		{name: "compressed zeros", transport: opampserver.HTTP, attack: attack{plain: func(_ *hostile, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-protobuf")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			if _, err := io.Copy(z, &zeros{bomb}); err == nil {
				_ = z.Close()
			}
		}}},
		{name: "zeros", attack: attack{webSocket: func(_ *hostile, c net.Conn) {
			if _, err := c.Write(frameHead(final|binaryFrame, bomb)); err == nil {
				_, _ = io.Copy(c, &zeros{bomb})
			}
		}}},
		{name: "endless body", attack: attack{webSocket: func(_ *hostile, c net.Conn) {
			err := writeFrame(c, binaryFrame, chunk)
			for err == nil {
				err = writeFrame(c, continuation, chunk)
			}
		}}},
		{name: "endless body", transport: opampserver.HTTP, attack: attack{plain: func(_ *hostile, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-protobuf")
			var err error
			for err == nil {
				_, err = w.Write(chunk)
			}
		}}},
		{name: "tiny fragments", attack: attack{webSocket: func(_ *hostile, c net.Conn) {
			// A thousand in one packet.
			fragments := []byte(strings.Repeat(string([]byte{continuation, 1, 0}), 1000))
			err := writeFrame(c, binaryFrame, nil)
			for err == nil {
				_, err = c.Write(fragments)
			}
		}}},
		{name: "slow body", attack: attack{webSocket: func(h *hostile, c net.Conn) {
			_, _ = c.Write(frameHead(final|binaryFrame, 1<<20))
			h.trickle(c, func() {})
		}}},
		{name: "slow body", transport: opampserver.HTTP, attack: attack{plain: func(h *hostile, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-protobuf")
			h.trickle(w, func() { _ = http.NewResponseController(w).Flush() })
		}}},
	}
	var long []hostileCase
	for _, transport := range []opampserver.Transport{"", opampserver.HTTP} {
		offers := hostileCase{
			name: "offers", transport: transport, time: offering, back: lastOfferRuns,
			attack: attack{message: hostileOffer, pace: hostilePace},
		}
		if transport == opampserver.HTTP { // each answer has an offer, and takes a while
			offers.layer = fmt.Sprintf("extensions: {opamp: {server: {http: {polling_interval: %s}}}}", hostilePace/5)
		}
		long = append(long, offers,
			hostileCase{name: "accept then close", transport: transport, time: closing, check: boundedConnections, attack: attack{
				request: func(h *hostile, w http.ResponseWriter, _ *http.Request) {
					if conn, _, ok := h.hijack(w); ok {
						_ = conn.Close()
					}
				},
			}},
		)
		cases = append(cases,
			hostileCase{name: "redirects everywhere", transport: transport, attack: attack{request: redirect}},
			hostileCase{name: "text", transport: transport, attack: attack{
				opcode: textFrame, pace: time.Millisecond,
				message: func(*hostile, int) []byte { return []byte(`{"remote_config": {"config_hash": "aGFzaA=="}}`) },
			}},
			hostileCase{name: "truncated protobuf", transport: transport, attack: attack{
				pace:    time.Millisecond,
				message: func(h *hostile, n int) []byte { m := hostileOffer(h, 1); return m[:len(m)-1-n%(len(m)-1)] },
			}},
			hostileCase{name: "wrong instance UIDs", transport: transport, attack: attack{
				pace: time.Millisecond,
				message: func(_ *hostile, n int) []byte {
					// Of another agent, too short, too long; and one to be given to the
					// agent that is none.
					wrong := [][]byte{[]byte("another agent!!!"), {1}, make([]byte, 1000), nil}[n%4]
					return marshal(&protobufs.ServerToAgent{
						InstanceUid:         wrong,
						AgentIdentification: &protobufs.AgentIdentification{NewInstanceUid: make([]byte, n%16)},
					})
				},
			}},
			hostileCase{name: "capability lies", transport: transport, back: nothingChanged, attack: attack{pace: 10 * time.Millisecond, message: lies}},
			hostileCase{name: "flood of custom messages", transport: transport, attack: attack{
				pace: 100 * time.Microsecond,
				message: func(h *hostile, n int) []byte {
					return marshal(&protobufs.ServerToAgent{
						InstanceUid:        h.uid,
						CustomCapabilities: &protobufs.CustomCapabilities{Capabilities: []string{"com.example.flood", fmt.Sprint("com.example.", n)}},
						CustomMessage:      &protobufs.CustomMessage{Capability: "com.example.flood", Type: strconv.Itoa(n), Data: make([]byte, 4<<10)},
					})
				},
			}})
	}
	return append(long, cases...)
}

// repeated sends one frame for ever.
func repeated(head byte, payload []byte) func(*hostile, net.Conn) {
	return func(_ *hostile, c net.Conn) {
		var err error
		for err == nil {
			err = writeFrame(c, head, payload)
		}
	}
}

// trickle writes a byte now and then.
func (h *hostile) trickle(w io.Writer, flush func()) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for h.wait(ticker) {
		if _, err := w.Write([]byte{0}); err != nil {
			return
		}
		flush()
	}
}

func marshal(m *protobufs.ServerToAgent) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err) // the messages of these tests are valid
	}
	return body
}

// hostileConfig is the nth offered configuration: it differs in a receiver, so that
// a partial reload need not stop the others.
func hostileConfig(n int) []byte {
	return fmt.Appendf(nil, "receivers: {fault: {message: offer %04d}}\nservice: {pipelines: {traces: {receivers: [otlp, fault]}}}\n", n)
}

func hostileHash(n int) []byte {
	hash := sha256.Sum256(hostileConfig(n))
	return hash[:]
}

// hostileOffer is the nth message of a flood of offers. The last comes when their
// time is over, however many of them were asked for, and is repeated.
func hostileOffer(h *hostile, n int) []byte {
	n = min(n, hostileOffers-1)
	if time.Since(h.started) > hostileOffers*hostilePace {
		n = hostileOffers - 1
	}
	return marshal(&protobufs.ServerToAgent{InstanceUid: h.uid, RemoteConfig: &protobufs.AgentRemoteConfig{
		ConfigHash: hostileHash(n),
		Config:     &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigObject{"": {Body: hostileConfig(n), ContentType: "text/yaml"}}},
	}})
}

// lastOfferRuns checks what became of the flood of offers.
func lastOfferRuns(t *testing.T, w *world, agent opampserver.Agent, c *collector) {
	t.Helper()
	w.await(agent, hostileHash(hostileOffers-1), applied)
	w.awaitEffective(agent, fmt.Sprintf("offer %04d", hostileOffers-1))
	applies := c.count(logPartialReload) + c.count(logReload)
	t.Logf("%d offers, %d applies", hostileOffers, applies)
	assert.LessOrEqual(t, applies, mostApplies, "applies of %d offers", hostileOffers)
}

func boundedConnections(t *testing.T, h *hostile) {
	t.Helper()
	n := h.connections(firstConnections, measured)
	t.Logf("%d connections in %s, after the first %d", n, measured, firstConnections)
	assert.LessOrEqual(t, n, connectionsPerMinute*int(measured/time.Second)/60, "connections to a server that closes them")
}

// redirect points elsewhere, to another scheme, to itself and to nowhere.
func redirect(h *hostile, w http.ResponseWriter, r *http.Request) {
	_, n, _ := h.counts()
	self := "//" + h.listener.Addr().String() + "/again"
	targets := []string{
		"http" + h.elsewhere + "/v1/opamp", "ws" + h.elsewhere + "/v1/opamp", "https:" + self, "wss:" + self, "http:" + self, "file:///etc/passwd", "", "\x7f",
	}
	codes := []int{
		http.StatusMultipleChoices, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusNotModified, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header()["Location"] = targets[n%len(targets) : n%len(targets)+1]
	w.WriteHeader(codes[n%len(codes)])
}

// lies are messages about what the agent has not announced.
func lies(h *hostile, n int) []byte {
	elsewhere := "http" + h.elsewhere + "/v1/opamp"
	m := &protobufs.ServerToAgent{InstanceUid: h.uid, Capabilities: []uint64{0, ^uint64(0)}[n/8%2]}
	switch n % 8 {
	case 0:
		m.Command = &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart}
	case 1:
		m.ConnectionSettings = &protobufs.ConnectionSettingsOffers{
			Hash:  fmt.Append(nil, n),
			Opamp: &protobufs.OpAMPConnectionSettings{DestinationEndpoint: elsewhere},
		}
	case 2:
		to := &protobufs.TelemetryConnectionSettings{DestinationEndpoint: elsewhere}
		m.ConnectionSettings = &protobufs.ConnectionSettingsOffers{Hash: fmt.Append(nil, n), OwnMetrics: to, OwnTraces: to, OwnLogs: to}
	case 3:
		m.ConnectionSettings = &protobufs.ConnectionSettingsOffers{Hash: fmt.Append(nil, n), OtherConnections: map[string]*protobufs.OtherConnectionSettings{
			"otlp_grpc": {DestinationEndpoint: elsewhere},
		}}
	case 4:
		m.PackagesAvailable = &protobufs.PackagesAvailable{AllPackagesHash: fmt.Append(nil, n), Packages: map[string]*protobufs.PackageAvailable{
			"otelcol": {Version: "666", File: &protobufs.DownloadableFile{DownloadUrl: elsewhere}},
		}}
	case 5:
		m.Flags = ^uint64(0) // report everything, on end
	case 6:
		m.ErrorResponse = &protobufs.ServerErrorResponse{Type: protobufs.ServerErrorResponseType_ServerErrorResponseType_Unknown, ErrorMessage: strings.Repeat("lie ", 1<<10)}
	default:
		m.Command = &protobufs.ServerToAgentCommand{Type: 99}
	}
	return marshal(m)
}

// nothingChanged checks that lies had no effect: the same process, not replaced,
// with the same UID and configuration.
func nothingChanged(t *testing.T, w *world, agent opampserver.Agent, c *collector) {
	t.Helper()
	back, known := w.server.Agent(agent.UID)
	require.True(t, known, "the instance UID stays")
	assert.Equal(t, agent.EffectiveConfig, back.EffectiveConfig)
	assert.Zero(t, c.count(logReplacing)+c.count(logReload)+c.count(logPartialReload))
}
