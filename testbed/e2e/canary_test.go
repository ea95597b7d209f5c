//go:build unix

package e2e_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// canaries is the folder of the corpus, which the policy's own tests share.
const canaries = "../../internal/policy/testdata/canary"

// Whatever a server offers to bring the secrets of a machine to light: they stay
// out of messages, telemetry, logs and state files, and a metadata server is not
// asked.
func TestCanaries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	const variable, content = "canary-variable-4711", "canary-file-4711"
	w.secrets = []string{variable, content}
	file := filepath.Join(w.dir, "secret.txt")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	var requests atomic.Int64
	metadata := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	t.Cleanup(metadata.Close)

	var env []string
	placed := strings.NewReplacer("@FILE@", file, "@METADATA@", strings.TrimPrefix(metadata.URL, "http://"), "@SECRET@", variable)
	variables, err := os.ReadFile(canaries + "/variables.env")
	require.NoError(t, err)
	for line := range strings.Lines(placed.Replace(string(variables))) {
		env = append(env, strings.TrimSpace(line))
	}
	// The local side may use what the remote side may not.
	c := w.start(w.args(w.layer("local.yaml", `
exporters: {otlp_grpc: {headers: {x-local: "${env:CANARY_SECRET}", x-file: "${file:`+file+`}"}}}
service: {telemetry: {logs: {level: debug}}}`)), env...)
	agent := w.managed()
	l := w.load(w.receiver)
	l.flows()

	refused, policy := 0, 0
	payloads, err := filepath.Glob(canaries + "/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(payloads), 60)
	for _, path := range payloads {
		name := filepath.Base(path)
		body, err := os.ReadFile(path)
		require.NoError(t, err)
		offer := opampserver.YAML(placed.Replace(string(body)))
		offer.Hash = []byte(name) // some have the same content
		hash := w.server.Offer("", offer)
		after, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
			s := a.RemoteConfigStatus
			return bytes.Equal(s.Hash, hash) && (s.Status == applied || s.Status == failed)
		})
		require.NoError(t, err, name)
		if after.RemoteConfigStatus.Status == failed {
			refused++
			if strings.Contains(after.RemoteConfigStatus.ErrorMessage, "refused by the policy") {
				policy++
			}
			continue
		}
		// What is applied has its effect on spans.
		before := time.Now()
		l.flows()
		t.Logf("applied after %s: %s", time.Since(before), name)
	}
	assert.Greater(t, refused, len(payloads)*4/5, "refused")
	assert.Greater(t, policy, len(payloads)*3/4, "refused by the policy, not by chance")
	l.requireNothingLost()
	c.stop() // which checks the log

	assert.Zero(t, requests.Load(), "requests to the metadata server")
	for _, m := range w.server.Messages() {
		message := proto.Message(m.Sent)
		if m.Received != nil {
			message = m.Received
		}
		data, err := proto.Marshal(message)
		require.NoError(t, err)
		for _, secret := range w.secrets {
			assert.Falsef(t, reveals(string(data), secret), "a secret in %s", m.Summary())
		}
	}
	for _, secret := range w.secrets {
		assert.Empty(t, w.sink.AttributeWith(secret), "a secret at the sink")
	}
	found := files(t, w.state)
	require.NotEmpty(t, found)
	for path, f := range found {
		for _, secret := range w.secrets {
			assert.Falsef(t, reveals(f.content, secret), "a secret in %s", path)
		}
	}
}

// A server may offer what it was shown: the block of the extension in it says what
// is local anyway.
func TestWhatIsShownCanBeOffered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.args())
	agent := w.managed()
	shown := agent.EffectiveConfig[""]
	require.Contains(t, shown, "opamp:")
	w.apply(agent, shown)
	w.apply(agent, marking("next"))
	l := w.load(w.receiver)
	l.flows()
	w.seen("next")
	assert.Equal(t, 2, c.count(logReload))
	w.requireOneSession()
}

// What a policy of the user requires and locks holds against a server, and is
// judged again when the policy has changed.
func TestPolicyOfTheUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	policy := func(more string) string {
		return w.layer("policy.yaml", `
extensions:
  opamp:
    policy:
      require: [{component: batch, pipelines: [traces], position: last}]
      locked: ["service::telemetry"`+more+`]
      listen: {allow: [localhost]}
`)
	}
	args := w.args(policy(`, "processors::attributes/e2e"`))
	c := w.start(args)
	agent := w.managed()
	for body, reasons := range map[string][]string{
		"service: {pipelines: {traces: {processors: []}}}":                         {`"service::pipelines::traces::processors" lacks the required processor batch in the last place`},
		"processors: {batch: {timeout: 1h}}":                                       {`"processors::batch" is required`},
		"service: {telemetry: {logs: {level: debug}}}":                             {`"service::telemetry" is locked`},
		"receivers: {otlp: {protocols: {http: {endpoint: '0.0.0.0:0'}}}}":          {`"receivers::otlp::protocols::http::endpoint" is an address that is not allowed`},
		"extensions: {opamp: {policy: {locked: []}}}\nexporters: {x: '${file:x}'}": {`"extensions::opamp" is managed locally`, `"exporters::x" has a reference with the scheme "file"`},
	} {
		after := w.await(agent, w.offer(body), failed)
		for _, reason := range reasons {
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, reason)
		}
	}
	hash := w.offer(marking("later"))
	w.await(agent, hash, failed)
	assert.Zero(t, c.count(logReload), "nothing that runs was touched")
	c.stop()

	// The same offer, to an agent whose policy allows it.
	policy("")
	w.start(args)
	w.load(w.receiver)
	w.managed()
	require.NoError(t, w.server.OfferOnce(agent.UID, opampserver.YAML(marking("later"))))
	_, err := w.server.WaitStatus(patiently(t), agent.UID, hash, applied)
	require.NoError(t, err)
	w.seen("later")
}
