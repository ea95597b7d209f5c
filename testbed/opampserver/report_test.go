package opampserver_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	fullState = uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)
	accepting = uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig)
)

// post sends one hand-made report over HTTP and returns the answer.
func post(t *testing.T, s *opampserver.Server, msg *protobufs.AgentToServer) *protobufs.ServerToAgent {
	t.Helper()
	body, err := proto.Marshal(msg)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(patiently(t), http.MethodPost, s.HTTPURL(), bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusOK, res.StatusCode)
	got, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	answer := new(protobufs.ServerToAgent)
	require.NoError(t, proto.Unmarshal(got, answer))
	return answer
}

func testUID(last byte) []byte {
	uid := make([]byte, 16)
	uid[15] = last
	return uid
}

func uidOf(last byte) string { return uuid.UUID(testUID(last)).String() }

func describeTest() *protobufs.AgentDescription {
	return &protobufs.AgentDescription{IdentifyingAttributes: []*protobufs.KeyValue{textAttribute("service.name", "test")}}
}

func TestFullStateIsAskedFor(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		reports []*protobufs.AgentToServer
		want    uint64 // flags of the last answer
	}{
		{
			name:    "unknown agent without description",
			reports: []*protobufs.AgentToServer{{SequenceNum: 7}},
			want:    fullState,
		},
		{
			name:    "unknown agent with a full report",
			reports: []*protobufs.AgentToServer{{SequenceNum: 7, AgentDescription: describeTest()}},
		},
		{
			name:    "next number",
			reports: []*protobufs.AgentToServer{{AgentDescription: describeTest()}, {SequenceNum: 1}},
		},
		{
			name:    "a gap",
			reports: []*protobufs.AgentToServer{{AgentDescription: describeTest()}, {SequenceNum: 2}},
			want:    fullState,
		},
		{
			name:    "the same number twice",
			reports: []*protobufs.AgentToServer{{AgentDescription: describeTest()}, {SequenceNum: 1}, {SequenceNum: 1}},
			want:    fullState,
		},
		{
			name:    "a gap but nothing left out",
			reports: []*protobufs.AgentToServer{{AgentDescription: describeTest()}, {SequenceNum: 5, AgentDescription: describeTest()}},
		},
		{
			name: "asked once",
			reports: []*protobufs.AgentToServer{
				{AgentDescription: describeTest()},
				{SequenceNum: 2},
				{SequenceNum: 3},
			},
		},
		{
			name: "a new process starts from the beginning",
			reports: []*protobufs.AgentToServer{
				{AgentDescription: describeTest(), Health: &protobufs.ComponentHealth{}},
				{SequenceNum: 1},
				{SequenceNum: 0, AgentDescription: describeTest()},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, opampserver.Settings{})
			var answer *protobufs.ServerToAgent
			for _, r := range tt.reports {
				r.InstanceUid = testUID(1)
				answer = post(t, s, r)
			}
			assert.Equal(t, tt.want, answer.GetFlags())
		})
	}
}

func TestNewProcessVoidsEarlierReports(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	post(t, s, &protobufs.AgentToServer{
		InstanceUid: testUID(1), AgentDescription: describeTest(), Health: &protobufs.ComponentHealth{LastError: "before"},
	})
	post(t, s, &protobufs.AgentToServer{InstanceUid: testUID(1), AgentDescription: describeTest()})
	a, ok := s.Agent(uidOf(1))
	require.True(t, ok)
	assert.Nil(t, a.Health)
	assert.Equal(t, 2, a.Connections)
}

func TestInvalidInstanceUID(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	answer := post(t, s, &protobufs.AgentToServer{InstanceUid: []byte("short")})
	assert.Equal(t, protobufs.ServerErrorResponseType_ServerErrorResponseType_BadRequest, answer.GetErrorResponse().GetType())
	assert.Empty(t, s.Agents())
	assert.Equal(t, "invalid-73686f7274", s.Messages()[0].UID)
}

func TestServerGivesInstanceUID(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	answer := post(t, s, &protobufs.AgentToServer{
		InstanceUid: testUID(1), AgentDescription: describeTest(),
		Flags: uint64(protobufs.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid),
	})
	given := answer.GetAgentIdentification().GetNewInstanceUid()
	require.Len(t, given, 16)
	answer = post(t, s, &protobufs.AgentToServer{InstanceUid: given, SequenceNum: 1})
	assert.Zero(t, answer.GetFlags(), "it is still the same agent")
	agents := s.Agents()
	require.Len(t, agents, 1)
	assert.Equal(t, uuid.UUID(given).String(), agents[0].UID)
	assert.Equal(t, "test", agents[0].Identifying["service.name"])
}

func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{KeepBytes: 4096})
	const reports = 100
	for i := range reports {
		post(t, s, &protobufs.AgentToServer{InstanceUid: testUID(1), SequenceNum: uint64(i), AgentDescription: describeTest()})
	}
	kept := s.Messages()
	assert.Less(t, len(kept), 20)
	assert.Equal(t, 2*reports-1, kept[len(kept)-1].Index, "the index counts what was forgotten too")
	assert.Equal(t, 2*reports, s.Mark())
	assert.Empty(t, s.MessagesFrom(s.Mark()))
	assert.Contains(t, s.Timeline("", 2), "earlier messages")
	assert.Equal(t, "timeline: no messages", s.Timeline("nobody", 0))
}
