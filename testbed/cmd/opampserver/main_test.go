package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// output is what a running program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var (
	pageLine  = regexp.MustCompile(`Page:\s+(http://\S+)/\n`)
	agentLine = regexp.MustCompile(`Agents:\s+(ws://\S+)`)
)

// running is the program on ephemeral ports.
type running struct {
	page, agents, printed string
}

// runProgram runs the whole program until the test ends.
func runProgram(t *testing.T, args ...string) running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var printed output
	go func() {
		ended <- run(ctx, append([]string{"--listen", "127.0.0.1:0", "--ui", "127.0.0.1:0"}, args...), &printed, io.Discard)
	}()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool { return strings.Contains(printed.String(), "curl") }, patience, time.Millisecond, "the program greets")
	text := printed.String()
	return running{page: pageLine.FindStringSubmatch(text)[1], agents: agentLine.FindStringSubmatch(text)[1], printed: text}
}

// agent is a client that answers an offer with a status.
type agent struct {
	client client.OpAMPClient
	uid    string
}

// connect starts an agent. A configuration that contains "bad" fails; one that
// contains "slow" is never finished.
func connect(t *testing.T, url string, attributes map[string]string) agent {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	a := agent{client: client.NewWebSocket(nil), uid: id.String()}
	if attributes == nil {
		attributes = map[string]string{"service.name": "collector"} // the client insists on one
	}
	description := &protobufs.AgentDescription{}
	for key, value := range attributes {
		description.IdentifyingAttributes = append(description.IdentifyingAttributes, &protobufs.KeyValue{
			Key: key, Value: &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: value}},
		})
	}
	capabilities := protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth
	require.NoError(t, a.client.SetAgentDescription(description))
	require.NoError(t, a.client.SetCapabilities(&capabilities))
	require.NoError(t, a.client.SetHealth(&protobufs.ComponentHealth{
		StartTimeUnixNano: 1, Status: "StatusRecoverableError", LastError: "<b>broken</b>",
		ComponentHealthMap: map[string]*protobufs.ComponentHealth{
			"pipeline:traces": {Healthy: true, ComponentHealthMap: map[string]*protobufs.ComponentHealth{"receiver:otlp": {Healthy: true}}},
		},
	}))
	require.NoError(t, a.client.Start(t.Context(), types.StartSettings{
		OpAMPServerURL: url,
		InstanceUid:    types.InstanceUid(id),
		Callbacks: types.Callbacks{
			GetEffectiveConfig: func(context.Context) (*protobufs.EffectiveConfig, error) {
				return &protobufs.EffectiveConfig{ConfigMap: &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigObject{
					"": {Body: []byte("key: </pre><script>alert(1)</script>")},
				}}}, nil
			},
			OnMessage: func(_ context.Context, msg *types.MessageData) { a.react(msg) },
		},
	}))
	t.Cleanup(func() { assert.NoError(t, a.client.Stop(patiently(t))) })
	return a
}

func (a agent) react(msg *types.MessageData) {
	if msg.RemoteConfig == nil {
		return
	}
	status := &protobufs.RemoteConfigStatus{
		LastRemoteConfigHash: msg.RemoteConfig.GetConfigHash(),
		Status:               protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED,
	}
	body := string(msg.RemoteConfig.GetConfig().GetConfigMap()[""].GetBody())
	switch {
	case strings.Contains(body, "bad"):
		status.Status = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED
		status.ErrorMessage = "no such receiver"
	case strings.Contains(body, "slow"):
		status.Status = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING
	}
	_ = a.client.SetRemoteConfigStatus(status) // fails only without a hash
}

// request sends a request as curl would, unless header says otherwise.
func request(t *testing.T, method, url, body string, header map[string]string) (status int, answer string, received http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(patiently(t), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for key, value := range header {
		if key == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(key, value)
	}
	c := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := c.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(content), res.Header
}

// decode reads a JSON answer.
func decode[T any](t *testing.T, answer string) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(answer), &v), answer)
	return v
}

// waitListed waits until the agent has reported everything.
func waitListed(t *testing.T, p running, uid string) agentView {
	t.Helper()
	var v agentView
	require.Eventually(t, func() bool {
		status, answer, _ := request(t, http.MethodGet, p.page+"/api/agents/"+uid, "", nil)
		if status != http.StatusOK {
			return false
		}
		v = decode[agentView](t, answer)
		return v.Health != nil && v.EffectiveConfig != nil
	}, patience, 5*time.Millisecond, "the agent is known")
	return v
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	assert.Contains(t, p.printed, "curl -sS -X PUT --data-binary @config.yaml '"+p.page+"/api/config?wait=30s'")
	assert.True(t, strings.HasSuffix(p.agents, "/v1/opamp"))
	status, page, _ := request(t, http.MethodGet, p.page+"/", "", nil)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, page, p.agents, "the empty page says where agents are expected")
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"all interfaces", []string{"--ui", ":4321"}, `--ui: ":4321" is not a loopback address`},
		{"zero address", []string{"--ui", "0.0.0.0:0"}, "not a loopback address"},
		{"other address", []string{"--ui", "192.0.2.1:4321"}, "not a loopback address"},
		{"name", []string{"--ui", "example.com:4321"}, "not a loopback address"},
		{"looks like loopback", []string{"--ui", "127.0.0.1.example.com:4321"}, "not a loopback address"},
		{"no port", []string{"--ui", "127.0.0.1"}, "missing port"},
		{"argument", []string{"serve"}, `unexpected argument "serve"`},
		{"flag", []string{"--nonsense"}, "not defined"},
		{"file", []string{"--listen", "127.0.0.1:0", "--ui", "127.0.0.1:0", "--config-for-all", "/not/there"}, "reading the configuration for all"},
		{"address for agents", []string{"--listen", "nonsense"}, "listening on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.ErrorContains(t, run(t.Context(), tt.args, io.Discard, io.Discard), tt.want)
		})
	}
	for _, addr := range []string{"localhost:1", "127.0.0.2:1", "[::1]:1"} {
		require.NoError(t, checkLoopback(addr))
	}
}

func TestConfigForAllFromFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(path, []byte("receivers: {}"), 0o600))
	p := runProgram(t, "--config-for-all", path)
	a := connect(t, p.agents, nil)
	require.Eventually(t, func() bool {
		_, answer, _ := request(t, http.MethodGet, p.page+"/api/agents/"+a.uid, "", nil)
		return strings.Contains(answer, "APPLIED")
	}, patience, 5*time.Millisecond, "the offer is applied")

	tooLarge := filepath.Join(t.TempDir(), "large.yaml")
	require.NoError(t, os.WriteFile(tooLarge, make([]byte, maxConfigBytes+1), 0o600))
	_, err := readConfig(tooLarge)
	require.ErrorContains(t, err, "is larger than")
}
