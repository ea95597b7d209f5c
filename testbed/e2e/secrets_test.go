//go:build unix

package e2e_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// The value of a variable that is referred to is used, and appears nowhere else:
// not in a message, not in the log, not on disk.
//
// Conformance: 69, E7
func TestSecretsStayInTheProcess(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string]struct {
		value string
		// parts are what must not be seen: a value looks different once a library
		// has quoted it.
		parts []string
	}{
		"a plain value":        {value: "canary-4711-do-not-show", parts: []string{"canary-4711-do-not-show"}},
		"a value with quotes":  {value: `canary-"4711\do-not`, parts: []string{"canary-", "do-not"}},
		"a value of two lines": {value: "canary-4711\ndo-not-show", parts: []string{"canary-4711", "do-not-show"}},
		"a number":             {value: "471147114711", parts: []string{"471147114711"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			w.secrets = secret.parts
			w.useSecret(secret.value)
		})
	}
}

// useSecret runs a Collector with a secret in its environment, which the local
// configuration uses and remote ones try to bring to light.
func (w *world) useSecret(value string) {
	t := w.t
	t.Helper()
	exporter := "otlp_grpc"
	if strings.Contains(value, "\n") {
		exporter = "otlp_grpc/idle" // no header can have it
	}
	args := w.args(w.layer("secrets.yaml", fmt.Sprintf(`
processors:
  attributes/local: {actions: [{key: e2e.secret, value: "is ${env:API_KEY}", action: upsert}]}
exporters:
  %s: {endpoint: %q, headers: {authorization: "Bearer ${env:API_KEY}", x-key: "${API_KEY}"}}
service: {pipelines: {traces: {processors: [attributes/local, batch]}}}
`, exporter, w.sink.Endpoint())), w.layer("log.yaml", "service: {telemetry: {logs: {level: debug}}}"))
	c := w.start(args, "API_KEY="+value)
	agent := w.managed()
	w.load(w.receiver)
	_, err := w.sink.WaitAttribute(patiently(t), "e2e.secret", "is "+value)
	require.NoError(t, err, "the test proves nothing if the value is not in use")
	assert.Contains(t, agent.EffectiveConfig[""], "is ${env:API_KEY}", "references are shown as such")

	// Errors love to repeat the value.
	for name, body := range map[string]string{
		"a duration":         "processors: {batch: {timeout: '${env:API_KEY}x'}}",
		"part of a duration": "processors: {batch: {timeout: 'x${env:API_KEY}x'}}",
		"a number":           "processors: {batch: {send_batch_size: '${env:API_KEY}', nonesuch: 1}}",
		"a truth":            "exporters: {otlp_grpc: {tls: {insecure: '${env:API_KEY}'}, nonesuch: 1}}",
		"a component ID":     "service: {pipelines: {traces: {exporters: ['nonesuch/${env:API_KEY}']}}}",
		"a component's name": "exporters: {'nonesuch/${env:API_KEY}': {}}",
		"an endpoint":        "exporters: {otlp_grpc: {endpoint: '${env:API_KEY}:x:y'}}",
		"a level":            "service: {telemetry: {logs: {level: 'x${env:API_KEY}'}}}",
		"a section":          "exporters: '${env:API_KEY}'",
		"a factory's error": `
exporters: {fault: {fail_create: true, message: "cannot log in with ${env:API_KEY}"}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`,
		"a component's error in the trial": `
exporters: {fault: {then: permanent_error, message: "cannot log in with ${env:API_KEY}"}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`,
	} {
		hash := w.offer(body)
		after := w.await(agent, hash, failed)
		assert.NotEmpty(t, after.RemoteConfigStatus.ErrorMessage, name)
		for _, part := range w.secrets {
			assert.NotContains(t, after.RemoteConfigStatus.ErrorMessage, part, name)
		}
	}
	// A configuration that uses the value is fine, and shows the reference only.
	w.apply(agent, fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: "remote ${env:API_KEY}", action: upsert}]}
service: {pipelines: {traces: {processors: [attributes/e2e, batch]}}}`, markKey))
	w.seen("remote " + value)
	w.awaitEffective(agent, "remote ${env:API_KEY}")
	c.stop() // which checks the log

	// The messages of the farewell are in the record, too.
	for _, m := range w.server.Messages() {
		var data []byte
		if m.Received != nil {
			data, err = proto.Marshal(m.Received)
		} else {
			data, err = proto.Marshal(m.Sent)
		}
		require.NoError(t, err)
		for _, secret := range w.secrets {
			assert.Falsef(t, reveals(string(data), secret), "a secret in %s", m.Summary())
		}
	}
	found := files(t, w.state)
	require.NotEmpty(t, found)
	for path, f := range found {
		for _, secret := range w.secrets {
			assert.Falsef(t, reveals(f.content, secret), "a secret in %s", path)
		}
	}
}

// reveals reports whether text contains the secret, plainly or in base64.
func reveals(text, secret string) bool {
	if strings.Contains(text, secret) {
		return true
	}
	// Inside of a longer text in base64 the secret begins at one of three places
	// of a group; the characters that it shares with its neighbors are left out.
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", shift) + secret))
		inner := encoded[(shift*8+5)/6 : len(encoded)-2]
		if strings.Contains(text, inner) {
			return true
		}
	}
	return false
}

func TestRevealsFindsBase64(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "x", "xy", "xyz"} {
		text := base64.StdEncoding.EncodeToString([]byte(before + "the secret" + " and more"))
		assert.True(t, reveals(text, "the secret"), before)
		assert.False(t, reveals(text, "a secret"), before)
	}
}

// What came from references to variables and files, opaque fields and the userinfo
// of URLs is in no message, before and after a partial reload; other literals are.
func TestSecretsAfterAPartialReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	canaries := []string{"canary-of-a-variable", "canary-of-a-file", "canary-of-a-header", "canary-of-a-url"}
	file := filepath.Join(w.dir, "secret.txt")
	require.NoError(t, os.WriteFile(file, []byte(canaries[1]), 0o600))
	args := append(w.args(w.layer("secrets.yaml", fmt.Sprintf(`
processors:
  attributes/local:
    actions:
      - {key: e2e.variable, value: "is ${env:API_KEY}", action: upsert}
      - {key: e2e.file, value: "is ${file:%s}", action: upsert}
      - {key: e2e.literal, value: a plain literal, action: upsert}
exporters:
  otlp_grpc: {endpoint: %q, headers: {authorization: %s}}
  otlp_http/idle: {endpoint: "http://user:%s@127.0.0.1:1"}
service:
  pipelines:
    traces: {processors: [attributes/local, batch]}
    metrics: {receivers: [otlp], exporters: [otlp_http/idle]}
`, file, w.sink.Endpoint(), canaries[2], canaries[3]))), "--feature-gates=service.partialReload,service.partialReloadReceivers")
	c := w.start(args, "API_KEY="+canaries[0])
	agent := w.managed()
	w.load(w.receiver)
	_, err := w.sink.WaitAttribute(patiently(t), "e2e.file", "is "+canaries[1])
	require.NoError(t, err, "the test proves nothing if the value is not in use")
	second := freeAddr(t)
	w.apply(agent, fmt.Sprintf(`
receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}
service: {pipelines: {traces: {receivers: [otlp, otlp/second]}}}`, second))
	w.awaitEffective(agent, second)
	require.Equal(t, 1, c.count(logPartialReload))
	after, _ := w.server.Agent(agent.UID)
	assert.Contains(t, after.EffectiveConfig[""], "a plain literal")
	for _, m := range w.server.Messages() {
		if m.Received == nil {
			continue
		}
		data, err := proto.Marshal(m.Received)
		require.NoError(t, err)
		for _, canary := range canaries {
			assert.Falsef(t, reveals(string(data), canary), "%s in %s", canary, m.Summary())
		}
	}
}
