package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// polling is an agent that says over HTTP what the test wants.
type polling struct {
	uid      uuid.UUID
	sequence uint64
}

func (a *polling) report(t *testing.T, p running, status *protobufs.ConnectionSettingsStatus) *protobufs.ConnectionSettingsOffers {
	t.Helper()
	body, err := proto.Marshal(&protobufs.AgentToServer{
		InstanceUid: a.uid[:], SequenceNum: a.sequence, AgentDescription: &protobufs.AgentDescription{},
		Capabilities: uint64(takesConnections | protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings),

		ConnectionSettingsStatus: status,
	})
	require.NoError(t, err)
	a.sequence++
	url := strings.Replace(p.agents, "ws://", "http://", 1)
	req, err := http.NewRequestWithContext(patiently(t), http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var answer protobufs.ServerToAgent
	require.NoError(t, proto.Unmarshal(content, &answer))
	return answer.GetConnectionSettings()
}

func TestConnectionsInAPI(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := &polling{uid: uuid.Must(uuid.NewV7())}
	a.report(t, p, nil)
	one := p.page + "/api/agents/" + a.uid.String() + "/connections"

	status, answer, _ := request(t, http.MethodPut, one, `opamp: {endpoint: "ws://one"}`, nil)
	assert.Equal(t, http.StatusOK, status)
	got := decode[outcome](t, answer)
	assert.Equal(t, outcome{UID: a.uid.String(), Hash: got.Hash, Connected: true, Status: "UNSET"}, got)
	offer := a.report(t, p, nil)
	assert.Equal(t, "ws://one", offer.GetOpamp().GetDestinationEndpoint())
	assert.Equal(t, got.Hash, hex.EncodeToString(offer.GetHash()))
	a.report(t, p, &protobufs.ConnectionSettingsStatus{
		LastConnectionSettingsHash: offer.GetHash(), ErrorMessage: "no route",
		Status: protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED,
	})
	_, answer, _ = request(t, http.MethodPut, one+"?wait=20s", `{"opamp": {"endpoint": "ws://one"}}`, nil)
	got = decode[outcome](t, answer)
	assert.Equal(t, "FAILED", got.Status)
	assert.Equal(t, "no route", got.ErrorMessage)
	_, answer, _ = request(t, http.MethodGet, p.page+"/api/agents/"+a.uid.String(), "", nil)
	assert.Equal(t, &statusView{Hash: got.Hash, Status: "FAILED", ErrorMessage: "no route"}, decode[agentView](t, answer).ConnectionSettings)

	// The one for all replaces it.
	status, answer, _ = request(t, http.MethodPut, p.page+"/api/connections?wait=200ms", `opamp: {endpoint: "ws://all"}`, nil)
	assert.Equal(t, http.StatusGatewayTimeout, status)
	assert.Contains(t, answer, a.uid.String())
	assert.Equal(t, "ws://all", a.report(t, p, nil).GetOpamp().GetDestinationEndpoint())

	status, answer, _ = request(t, http.MethodPut, p.page+"/api/connections", "opam: {}", nil)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, answer, "opam")
	status, _, _ = request(t, http.MethodPut, p.page+"/api/connections?wait=soon", "", nil)
	assert.Equal(t, http.StatusBadRequest, status)
	status, _, _ = request(t, http.MethodPut, p.page+"/api/agents/nobody/connections", "", nil)
	assert.Equal(t, http.StatusNotFound, status)
}
