package opampserver_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

func TestOfferReachesAgentOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{})
		_, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
		hash := s.Offer(a.uid, opampserver.YAML("a: 1"))
		seen, err := s.WaitStatus(patiently(t), a.uid, hash, applied)
		require.NoError(t, err)
		assert.Equal(t, hash, seen.Offered)

		// Neither later answers nor the same offer again send it a second time.
		s.Offer(a.uid, opampserver.YAML("a: 1"))
		waitAnswers(t, s, 3)
		assert.Equal(t, [][]byte{hash}, a.received())

		// OfferOnce does.
		require.NoError(t, s.OfferOnce(a.uid, opampserver.YAML("a: 1")))
		require.Eventually(t, func() bool { return len(a.received()) == 2 }, patience, pollInterval, "offered again")
	})
}

func TestOfferToAllIsInFirstAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		toAll := s.Offer("", opampserver.YAML("all: true"))
		own := uuid.Must(uuid.NewV7())
		toOne := s.Offer(own.String(), opampserver.YAML("one: true"))
		a := startAgent(t, tr, s, agentOptions{})
		b := startAgent(t, tr, s, agentOptions{uid: own})
		for _, tt := range []struct {
			uid  string
			hash []byte
		}{{a.uid, toAll}, {b.uid, toOne}} {
			_, err := s.WaitStatus(patiently(t), tt.uid, tt.hash, applied)
			require.NoError(t, err)
			first, err := s.WaitMessage(patiently(t), 0, func(m opampserver.Message) bool {
				return m.UID == tt.uid && m.Sent != nil
			})
			require.NoError(t, err)
			assert.Equal(t, tt.hash, first.Sent.GetRemoteConfig().GetConfigHash())
		}

		offered, ok := s.Offered(b.uid)
		require.True(t, ok)
		assert.Equal(t, "one: true", string(offered.Files[""].Body))
		s.Withdraw(own.String())
		seen, _ := s.Agent(b.uid)
		assert.Equal(t, toAll, seen.Offered)

		// An offer to all that overrides those of single agents.
		s.Offer(own.String(), opampserver.YAML("one: true"))
		override := s.OfferToAll(opampserver.YAML("all: again"))
		for _, uid := range []string{a.uid, b.uid} {
			_, err := s.WaitStatus(patiently(t), uid, override, applied)
			require.NoError(t, err)
		}
		s.Withdraw("")
		_, ok = s.Offered(b.uid)
		assert.False(t, ok)
	})
}

func TestOfferIsRepeatedUntilReported(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{lazy: true})
		hash := s.Offer("", opampserver.YAML("a: 1"))
		require.Eventually(t, func() bool { return len(a.received()) >= 3 }, patience, pollInterval, "in each answer")
		require.NoError(t, a.client.SetRemoteConfigStatus(&protobufs.RemoteConfigStatus{LastRemoteConfigHash: hash, Status: applying}))
		_, err := s.WaitStatus(patiently(t), a.uid, hash, applying)
		require.NoError(t, err)
		before := len(a.received())
		waitAnswers(t, s, 3)
		assert.LessOrEqual(t, len(a.received()), before+1, "one may have been under way")
	})
}

func TestOfferNeedsTheCapability(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		startAgent(t, tr, s, agentOptions{without: protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig})
		_, err := s.WaitAgent(patiently(t))
		require.NoError(t, err)
		s.Offer("", opampserver.YAML("a: 1"))
		waitAnswers(t, s, 3)
		for _, m := range s.Messages() {
			assert.Nil(t, m.Sent.GetRemoteConfig())
		}
	})
}

func TestSendIsTheWholeMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{CustomCapabilities: []string{"test.custom"}})
		a := startAgent(t, tr, s, agentOptions{})
		_, err := s.WaitAgent(patiently(t))
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, s.Send(a.uid, &protobufs.ServerToAgent{
				CustomMessage: &protobufs.CustomMessage{Capability: "test.custom", Type: "hello", Data: []byte("x")},
			}))
		}
		require.Eventually(t, func() bool { return a.customMessages() == 2 }, patience, pollInterval, "both arrive")
		require.ErrorIs(t, s.Send(uidOf(9), &protobufs.ServerToAgent{}), opampserver.ErrNotConnected)
	})
}

func TestDigest(t *testing.T) {
	t.Parallel()
	file := func(body string) opampserver.File { return opampserver.File{Body: []byte(body)} }
	a := opampserver.Offer{Files: map[string]opampserver.File{"a": file("1"), "b": file("2")}}
	same := opampserver.Offer{Files: map[string]opampserver.File{"b": file("2"), "a": file("1")}}
	shifted := opampserver.Offer{Files: map[string]opampserver.File{"a": file("1b"), "": file("2")}}
	assert.Equal(t, a.Digest(), same.Digest())
	assert.NotEqual(t, a.Digest(), shifted.Digest())
	assert.Len(t, opampserver.Offer{}.Digest(), 32, "the empty configuration is an offer too")
	assert.Equal(t, []byte("mine"), opampserver.Offer{Hash: []byte("mine")}.Digest())
}

// waitAnswers waits until the server has sent n more messages.
func waitAnswers(t *testing.T, s *opampserver.Server, n int) {
	t.Helper()
	from := s.Mark()
	for range n {
		m, err := s.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Sent != nil })
		require.NoError(t, err)
		from = m.Index + 1
	}
}
