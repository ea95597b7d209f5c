//go:build unix

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const (
	acceptsRemoteConfig = protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig
	reportsRemoteConfig = protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig
)

// A Collector that was configured remotely needs no server to come back as it
// was.
//
// Conformance: 38, 74, E8
func TestRestartWithoutServerRunsTheLastKnownGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	hash := w.apply(agent, marking("good"))
	c.stop()
	w.stopServer()

	c = w.start(args)
	w.load(w.receiver)
	w.seen("good") // for the first time: there was no load before
	assert.Zero(t, c.count(logReload))

	// The server that comes back learns what runs, and from whom.
	w.startServer()
	again := w.managed()
	assert.Equal(t, agent.UID, again.UID)
	assert.Equal(t, hash, again.RemoteConfigStatus.Hash)
	assert.Equal(t, applied, again.RemoteConfigStatus.Status)
	assert.Contains(t, again.EffectiveConfig[""], "value: good")
}

// Without a server there is the local configuration; the server may come later.
func TestStartWithoutServerAndThenWithOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noServer: true})
	c := w.start(w.args(w.layer("mark.yaml", marking("local"))))
	w.load(w.receiver)
	w.seen("local")
	assert.Zero(t, c.count(logReload))

	w.startServer()
	hash := w.offer(marking("candidate"))
	agent := w.managed()
	w.await(agent, hash, applied)
	w.seen("candidate")
	w.requireOneSession()
}

// The usual first start: a file that only says where the server is.
//
// Conformance: 55
func TestBootstrapWithoutPipelines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := []string{w.layer("extension.yaml", w.extension()), w.remote()}
	c := w.start(args)
	agent := w.managed()
	assert.Contains(t, agent.Health.GetStatus(), "waiting for configuration")

	w.load(w.receiver)
	hash := w.server.Offer("", named(map[string]string{"1": w.pipeline(), "2": marking("first")}))
	after := w.await(agent, hash, applied)
	w.seen("first")
	assert.NotContains(t, after.Health.GetStatus(), "waiting for configuration")
	w.requireOneSession()

	// With a configuration in force, one that takes the pipelines away is refused
	// as it is by every Collector.
	none := w.offer("service: {pipelines: null}")
	refused := w.await(agent, none, failed)
	assert.Contains(t, refused.RemoteConfigStatus.ErrorMessage, "pipeline")
	w.seenFromNow("first")

	// And back to nothing on purpose.
	empty := w.server.Offer("", opampserver.Offer{})
	w.await(agent, empty, applied)
	_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetStatus() == "StatusOK; waiting for configuration"
	})
	require.NoError(t, err)
	c.requireAlive()

	// That, too, survives a restart.
	c.stop()
	w.start(args)
	agent = w.managed()
	assert.Contains(t, agent.Health.GetStatus(), "waiting for configuration")
	assert.Equal(t, empty, agent.RemoteConfigStatus.Hash)
}

// startsVariable raises the number of process starts of the test below.
const startsVariable = "OTELCOL_OPAMP_E2E_STARTS"

func starts(t *testing.T) int {
	text := os.Getenv(startsVariable)
	if text == "" {
		if testing.Short() {
			return 6
		}
		return 30
	}
	n, err := strconv.Atoi(text)
	require.NoErrorf(t, err, "reading %s", startsVariable)
	return n
}

// An offer that comes with the first answer, while the Collector may still be
// starting, is judged like any other: nothing is applied that did not run.
func TestOfferInTheFirstAnswer(t *testing.T) {
	t.Parallel()
	const worlds = 3
	for i := range worlds {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: "{trial_period: 500ms}"})
			w.load(w.receiver)
			args := w.args(w.layer("mark.yaml", marking("local")))
			good := "local"
			for n := range starts(t) / worlds {
				// Each world begins with another kind, so that each is a first start.
				good = w.startWithOffer(args, (n+i)%3, fmt.Sprint("start ", n), good)
			}
		})
	}
}

// startWithOffer starts a Collector for which there is an offer of a kind
// already, and stops it after the verdict. It returns the mark of what runs.
func (w *world) startWithOffer(args []string, kind int, mark, good string) string {
	t := w.t
	t.Helper()
	from := w.server.Mark()
	var want protobufs.RemoteConfigStatuses
	var hash []byte
	switch kind {
	case 0:
		want, hash = applied, w.offer(marking(mark))
		good = mark
	case 1:
		want, hash = failed, w.offer(turningBad(mark, ""))
	case 2:
		want, hash = failed, w.offer(marking(mark)+"exporters: {nonesuch: {}}")
	}
	c := w.start(args)
	agent := w.await(opampserver.Agent{}, hash, want)
	w.requireVerdict(from, hash, want)
	w.seenFromNow(good)
	w.awaitEffective(agent, fmt.Sprintf("value: %s\n", good))
	if kind == 2 {
		require.False(t, w.wasSeen(mark), "%s did not even pass the dry run", mark)
	}
	c.stop()
	require.False(t, t.Failed())
	return good
}

// Two processes with one state folder would overwrite each other's records.
func TestSecondProcessWithTheSameFolderIsTurnedAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	first := w.start(w.args())
	w.managed()
	before := files(t, w.state)

	path, err := binary()
	require.NoError(t, err)
	second, err := otelcol.Start(otelcol.Settings{Binary: path, Args: w.args()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, second.KillAll()) })
	code, err := second.Wait(patiently(t))
	require.NoError(t, err)
	assert.Equal(t, 1, code)
	assert.Contains(t, second.Log(), "is in use by process "+strconv.Itoa(first.PID()))
	assert.Equal(t, before, files(t, w.state), "the loser must not touch the folder")
	first.requireAlive()
	w.requireOneSession()

	// The lock ends with its owner, even if that one cannot say goodbye.
	first.kill()
	w.start(w.args())
	_, err = w.server.WaitFor(patiently(t), "", func(a opampserver.Agent) bool { return a.Connections == 2 && a.Health.GetHealthy() })
	require.NoError(t, err)
}

// A Collector whose state folder is of no use runs what it has locally and says
// why it cannot be managed.
//
// Conformance: 0x0002, 49
func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	require.NoError(t, os.WriteFile(w.state, []byte("a file where the folder should be"), 0o600))
	c := w.start(w.args(w.layer("mark.yaml", marking("local"))))
	agent := w.managed()
	assert.False(t, accepts(agent, acceptsRemoteConfig))
	assert.False(t, accepts(agent, reportsRemoteConfig))
	assert.Contains(t, agent.Health.GetStatus(), "state folder")
	assert.Contains(t, agent.Health.GetStatus(), filepath.Base(w.state), "which folder it is")
	require.NoError(t, c.WaitLog(patiently(t), "No remote configuration will be accepted"))
	w.load(w.receiver)
	w.seen("local")

	// A server that does not care is ignored.
	from := w.server.Mark()
	require.NoError(t, w.server.OfferOnce(agent.UID, opampserver.YAML(marking("candidate"))))
	w.requireSilence(from, "nothing was accepted", reportsStatus)
	assert.Zero(t, c.count(logReload))
	w.seenFromNow("local")
}

// Contrib's way of using the extension: it reports, and nothing can be changed.
//
// Conformance: 0x0002, 0x1000, 49, 70, 167
func TestWithoutProviderNothingIsAccepted(t *testing.T) {
	t.Parallel()
	for _, transport := range []opampserver.Transport{opampserver.WebSocket, opampserver.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{transport: transport})
			args := w.args(w.layer("mark.yaml", marking("local")))
			c := w.start(args[:len(args)-1]) // without the remote layer
			agent := w.managed()
			assert.False(t, accepts(agent, acceptsRemoteConfig))
			assert.False(t, accepts(agent, reportsRemoteConfig))
			assert.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig))
			assert.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth))
			assert.Contains(t, agent.EffectiveConfig[""], "value: local")
			assert.Contains(t, agent.Health.GetComponentHealthMap(), "pipeline:traces")
			w.load(w.receiver)
			w.seen("local")

			from := w.server.Mark()
			require.NoError(t, w.server.OfferOnce(agent.UID, opampserver.YAML(marking("candidate"))))
			w.requireSilence(from, "nothing was accepted", reportsStatus)
			assert.Zero(t, c.count(logReload))
			w.requireOneSession()
		})
	}
}

// The order of --config decides: what stands after the remote layer holds.
func TestLayerAfterTheRemoteOneCannotBeOverridden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.start(append(w.args(), w.layer("last.yaml", fmt.Sprintf(
		"processors: {attributes/e2e: {actions: [{key: %s, value: pinned, action: upsert}]}}", markKey,
	))))
	agent := w.managed()
	w.load(w.receiver)
	// The pipeline is the remote's to change, the processor's actions are not.
	hash := w.apply(agent, marking("remote"))
	w.seen("pinned")
	w.awaitEffective(agent, "value: pinned")
	assert.False(t, w.wasSeen("remote"))
	last, _ := w.server.Agent(agent.UID)
	assert.Equal(t, hex.EncodeToString(hash), hex.EncodeToString(last.RemoteConfigStatus.Hash))
}

// A server whose certificate nobody vouches for is not talked to.
func TestServerOfAnUnknownAuthorityIsNotTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{tls: true})
	w.caFile = "" // the configuration does not name it
	c := w.start(w.args(w.layer("log.yaml", "service: {telemetry: {logs: {level: debug}}}")))
	require.NoError(t, c.WaitLog(patiently(t), "certificate signed by unknown authority"))
	assert.Empty(t, w.server.Attempts())
	l := w.load(w.receiver)
	l.flows()
}
