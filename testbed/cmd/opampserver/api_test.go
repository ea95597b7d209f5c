package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAgentsInAPI(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := connect(t, p.agents, map[string]string{"service.name": "collector"})
	v := waitListed(t, p, a.uid)
	assert.Equal(t, a.uid, v.UID)
	assert.True(t, v.Connected)
	assert.Equal(t, "ws", v.Transport)
	assert.Equal(t, map[string]string{"service.name": "collector"}, v.Identifying)
	assert.Contains(t, v.Capabilities, "AcceptsRemoteConfig")
	assert.NotContains(t, v.Capabilities, "AcceptsPackages")
	assert.Equal(t, "UNSET", v.RemoteConfig.Status)
	assert.Contains(t, v.EffectiveConfig[""], "key:")
	assert.False(t, v.Health.Healthy)
	assert.Equal(t, "<b>broken</b>", v.Health.LastError)
	assert.NotNil(t, v.Health.StartTime)
	assert.Nil(t, v.Health.StatusTime)
	require.Len(t, v.Health.Components, 1)
	assert.Equal(t, "receiver:otlp", v.Health.Components[0].Components[0].Name)

	status, answer, _ := request(t, http.MethodGet, p.page+"/api/agents", "", nil)
	assert.Equal(t, http.StatusOK, status)
	list := decode[struct{ Agents []agentView }](t, answer)
	require.Len(t, list.Agents, 1)
	assert.Nil(t, list.Agents[0].EffectiveConfig, "lists are short")
	status, answer, _ = request(t, http.MethodGet, p.page+"/api/agents/nobody", "", nil)
	assert.Equal(t, http.StatusNotFound, status)
	assert.Contains(t, answer, `no agent \"nobody\" is known`)
}

func TestPushToOneAndWait(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := connect(t, p.agents, nil)
	other := connect(t, p.agents, nil)
	waitListed(t, p, a.uid)
	waitListed(t, p, other.uid)
	tests := []struct {
		name, body, query string
		wantStatus        int
		want              outcome
	}{
		{"applied", "a: good", "?wait=20s", http.StatusOK, outcome{Status: "APPLIED"}},
		{"failed", "a: bad", "?wait=20s", http.StatusOK, outcome{Status: "FAILED", ErrorMessage: "no such receiver"}},
		{"failed before", "a: bad", "?wait=20s", http.StatusOK, outcome{Status: "FAILED", ErrorMessage: "no such receiver"}},
		{"never finished", "a: slow", "?wait=300ms", http.StatusGatewayTimeout, outcome{Status: "APPLYING", TimedOut: true}},
		{"empty", "", "?wait=20s", http.StatusOK, outcome{Status: "APPLIED"}},
		{"without waiting", "a: slow 2", "", http.StatusOK, outcome{}},
	}
	for _, tt := range tests { // in order: each is compared with what was reported last
		status, answer, _ := request(t, http.MethodPut, p.page+"/api/agents/"+a.uid+"/config"+tt.query, tt.body, nil)
		assert.Equal(t, tt.wantStatus, status, tt.name)
		got := decode[outcome](t, answer)
		assert.Len(t, got.Hash, 64, tt.name)
		tt.want.Hash, tt.want.UID, tt.want.Connected = got.Hash, a.uid, true
		if tt.want.Status == "" {
			tt.want.Status = got.Status // a matter of luck
		}
		assert.Equal(t, tt.want, got, tt.name)
	}
	assert.Empty(t, waitListed(t, p, other.uid).OfferedHash, "the other agent was offered nothing")
	status, _, _ := request(t, http.MethodPut, p.page+"/api/agents/nobody/config", "a: 1", nil)
	assert.Equal(t, http.StatusNotFound, status)
}

func TestPushToAll(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a, b := connect(t, p.agents, nil), connect(t, p.agents, nil)
	waitListed(t, p, a.uid)
	waitListed(t, p, b.uid)
	type answers struct {
		Hash   string
		Agents []outcome
	}
	// One agent has a configuration of its own: the one for all replaces it.
	request(t, http.MethodPut, p.page+"/api/agents/"+a.uid+"/config?wait=20s", "own: 1", nil)
	status, answer, _ := request(t, http.MethodPut, p.page+"/api/config?wait=20s", "a: 1", nil)
	assert.Equal(t, http.StatusOK, status)
	got := decode[answers](t, answer)
	require.Len(t, got.Agents, 2)
	for _, o := range got.Agents {
		assert.Equal(t, "APPLIED", o.Status)
		assert.Equal(t, got.Hash, o.Hash)
	}
	status, answer, _ = request(t, http.MethodPut, p.page+"/api/config?wait=200ms", "a: slow", nil)
	assert.Equal(t, http.StatusGatewayTimeout, status)
	assert.True(t, decode[answers](t, answer).Agents[0].TimedOut)
	status, _, _ = request(t, http.MethodPut, p.page+"/api/config", "a: 2", nil)
	assert.Equal(t, http.StatusOK, status)
	late := connect(t, p.agents, nil)
	assert.NotEmpty(t, waitListed(t, p, late.uid).OfferedHash, "later agents are offered it too")
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := connect(t, p.agents, nil)
	waitListed(t, p, a.uid)
	request(t, http.MethodPut, p.page+"/api/agents/"+a.uid+"/config?wait=20s", "a: secret", nil)
	_, answer, _ := request(t, http.MethodGet, p.page+"/api/timeline?uid="+a.uid, "", nil)
	assert.NotContains(t, answer, "secret")
	messages := decode[struct{ Messages []messageView }](t, answer).Messages
	require.GreaterOrEqual(t, len(messages), 4)
	assert.Equal(t, "received", messages[0].Direction)
	assert.Equal(t, a.uid, messages[0].UID)
	_, answer, _ = request(t, http.MethodGet, p.page+"/api/timeline?limit=1", "", nil)
	last := decode[struct{ Messages []messageView }](t, answer).Messages
	require.Len(t, last, 1)
	assert.GreaterOrEqual(t, last[0].Index, messages[len(messages)-1].Index)
	_, answer, _ = request(t, http.MethodGet, p.page+"/api/timeline?uid=nobody", "", nil)
	assert.JSONEq(t, `{"messages": []}`, answer)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	tests := []struct {
		method, path, body string
		want               int
	}{
		{http.MethodPut, "/api/config", strings.Repeat("x", maxConfigBytes+1), http.StatusRequestEntityTooLarge},
		{http.MethodPut, "/api/config?wait=soon", "a: 1", http.StatusBadRequest},
		{http.MethodPut, "/api/config?wait=-1s", "a: 1", http.StatusBadRequest},
		{http.MethodPut, "/api/config?wait=11m", "a: 1", http.StatusBadRequest},
		{http.MethodPost, "/api/config", "a: 1", http.StatusMethodNotAllowed},
		{http.MethodGet, "/api/timeline?limit=0", "", http.StatusBadRequest},
		{http.MethodGet, "/api/timeline?limit=x", "", http.StatusBadRequest},
		{http.MethodGet, "/api/timeline?limit=1001", "", http.StatusBadRequest},
		{http.MethodGet, "/api/nonsense", "", http.StatusNotFound},
	}
	for _, tt := range tests {
		status, _, _ := request(t, tt.method, p.page+tt.path, tt.body, nil)
		assert.Equal(t, tt.want, status, "%s %s", tt.method, tt.path)
	}
	status, answer, _ := request(t, http.MethodPut, p.page+"/api/config", strings.Repeat("x", maxConfigBytes), nil)
	assert.Equal(t, http.StatusOK, status, answer)
}
