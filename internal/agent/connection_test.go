package agent_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
)

// TestReasonOfNoConnectionIsLogged once, however often the agent tries.
func TestReasonOfNoConnectionIsLogged(t *testing.T) {
	t.Parallel()
	requests := make(chan struct{}, 100)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		requests <- struct{}{}
	}))
	t.Cleanup(web.Close)
	core, logged := observer.New(zap.DebugLevel)
	h := newHost(t, &opampServer{url: "ws" + strings.TrimPrefix(web.URL, "http")}, t.TempDir())
	set := h.settings()
	set.Log = zap.New(core)
	e, err := agent.AcquireExtension(t.Context(), h.name, set)
	require.NoError(t, err)
	for range 3 {
		select {
		case <-requests:
		case <-time.After(waitTime):
			t.Fatal("the agent does not try")
		}
	}
	require.NoError(t, e.Release(t.Context()))
	told := logged.FilterMessage("No connection to the OpAMP server; trying again").All()
	require.NotEmpty(t, told)
	assert.Equal(t, zap.WarnLevel, told[0].Level)
	assert.Equal(t, "the OpAMP server answers with HTTP status 403 Forbidden", told[0].ContextMap()["error"])
	for _, entry := range told[1:] {
		assert.Equal(t, zap.DebugLevel, entry.Level)
	}
}

// TestUnavailableServerIsLeftAloneByTheNextSession: settings that changed are no
// reason to come back to a server that wants to be left alone.
//
// Conformance: 154
func TestUnavailableServerIsLeftAloneByTheNextSession(t *testing.T) {
	t.Parallel()
	const wish = 700 * time.Millisecond
	s := startServer(t)
	s.failure = &protobufs.ServerErrorResponse{
		Type:    protobufs.ServerErrorResponseType_ServerErrorResponseType_Unavailable,
		Details: &protobufs.ServerErrorResponse_RetryInfo{RetryInfo: &protobufs.RetryInfo{RetryAfterNanoseconds: uint64(wish)}},
	}
	h := newHost(t, s, t.TempDir())
	p, err := agent.AcquireProvider(t.Context(), h.name, h.dir, zap.NewNop())
	require.NoError(t, err)
	var began time.Time
	for i := range 2 {
		set := h.settings()
		set.SameSession = i
		e, err := agent.AcquireExtension(t.Context(), h.name, set)
		require.NoError(t, err)
		if i == 0 {
			s.wait(t, "the end of the connection", func() bool { return s.connections == 1 && len(s.conns) == 0 })
			began = time.Now()
			s.mu.Lock()
			s.failure = nil
			s.mu.Unlock()
		} else {
			s.wait(t, "the next connection", func() bool { return s.connections == 2 })
			assert.Greater(t, time.Since(began), wish-200*time.Millisecond)
		}
		require.NoError(t, e.Release(t.Context()))
	}
	require.NoError(t, p.Release(t.Context()))
}
