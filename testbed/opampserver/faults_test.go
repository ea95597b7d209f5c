package opampserver_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		s.Hold()
		a := startAgent(t, tr, s, agentOptions{})
		_, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
		if tr.name == opampserver.WebSocket {
			// Held answers do not keep reports from being read.
			_, err = s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.SequenceNum >= 3 })
			require.NoError(t, err)
		}
		hash := s.Offer("", opampserver.YAML("a: 1"))
		for _, m := range s.Messages() {
			require.Nil(t, m.Sent, "nothing is sent while answers are held back")
		}
		s.Release()
		_, err = s.WaitStatus(patiently(t), a.uid, hash, applied)
		require.NoError(t, err)
	})
}

func TestDropAndReturn(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{})
		_, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected && a.Identifying != nil })
		require.NoError(t, err)
		require.NoError(t, s.Drop(a.uid))
		back, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected && a.Connections == 2 })
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"service.name": "test"}, back.Identifying)
		require.ErrorIs(t, s.Drop(uidOf(9)), opampserver.ErrNotConnected)
	})
}

func TestRefuseAndAcceptAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		s.Refuse(http.StatusTooManyRequests, map[string]string{"Retry-After": "0"})
		a := startAgent(t, tr, s, agentOptions{})
		refused, err := s.WaitAttempt(patiently(t), time.Time{}, func(opampserver.Attempt) bool { return true })
		require.NoError(t, err)
		assert.Equal(t, http.StatusTooManyRequests, refused.Status)
		assert.Equal(t, tr.name, refused.Transport)
		assert.Empty(t, s.Messages())
		s.AcceptAgain()
		_, err = s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
	})
}

func TestWaitStatusSeesShortStates(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	hash := []byte("h")
	report := func(seq uint64, status protobufs.RemoteConfigStatuses) {
		post(t, s, &protobufs.AgentToServer{
			InstanceUid: testUID(1), SequenceNum: seq, AgentDescription: describeTest(),
			RemoteConfigStatus: &protobufs.RemoteConfigStatus{LastRemoteConfigHash: hash, Status: status},
		})
	}
	report(0, unset)
	seen := make(chan error, 1)
	started := make(chan struct{})
	ctx := patiently(t)
	go func() {
		close(started)
		_, err := s.WaitStatus(ctx, uidOf(1), hash, applying)
		seen <- err
	}()
	<-started
	for seq := uint64(1); ; seq += 2 {
		report(seq, applying)
		report(seq+1, applied)
		select {
		case err := <-seen:
			require.NoError(t, err)
			return
		default: // the wait had not begun yet
		}
	}
}

func TestPlainRequestsToOtherPathsAreNotOpAMP(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{Path: "/elsewhere"})
	assert.Equal(t, "ws://"+s.Addr()+"/elsewhere", s.WSURL())
	for path, want := range map[string]int{"/v1/opamp": http.StatusNotFound, "/elsewhere": http.StatusBadRequest} {
		req, err := http.NewRequestWithContext(patiently(t), http.MethodGet, "http://"+s.Addr()+path, http.NoBody)
		require.NoError(t, err)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, want, res.StatusCode, path)
	}
	assert.Zero(t, s.Connections())
}
