package agent_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
)

// listen registers a capability.
func listen(t *testing.T, e *agent.ExtensionLease, capability string, queued int) *custommessages.Registration[custommessages.Message] {
	same := func(m custommessages.Message) custommessages.Message { return m }
	h, err := custommessages.Register(e.CustomMessages(), capability, queued, same, same)
	if err != nil {
		t.Errorf("registering: %v", err)
	}
	return h
}

// sendCustom sends a custom message to all agents.
func (s *opampServer) sendCustom(t *testing.T, capability, data string) {
	t.Helper()
	s.mu.Lock()
	conns := make([]types.Connection, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		require.NoError(t, c.Send(t.Context(), &protobufs.ServerToAgent{
			CustomMessage: &protobufs.CustomMessage{Capability: capability, Type: "t", Data: []byte(data)},
		}))
	}
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}

// A component that registers, echoes and unregisters with each generation loses
// no message over ten reloads, of which every other one changes the connection.
//
// Conformance: 146
func TestCustomMessagesSurviveReloads(t *testing.T) {
	t.Parallel()
	const reloads, each = 10, 20
	for _, newSession := range []bool{false, true} {
		t.Run(fmt.Sprint("new session ", newSession), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			h := newHost(t, s, t.TempDir())
			generation := 0
			if newSession {
				h.sameSession = func() any { generation++; return generation / 2 }
			}
			h.component = func(e *agent.ExtensionLease) func() {
				mine := listen(t, e, "echo", 1000)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for {
						select {
						case m := <-mine.Messages():
							if _, err := mine.Send("echo", m.Data); err != nil {
								t.Errorf("sending: %v", err)
							}
						case <-ctx.Done():
							return
						}
					}
				}()
				return func() {
					cancel()
					<-done
					mine.Unregister()
				}
			}
			h.start()
			s.wait(t, "the capability", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[echo]]") })
			sent := 0
			for i := range reloads {
				hash := fmt.Sprint("h", i)
				s.push(t, hash, fmt.Sprintf("receivers: {a: {n: %d}}", i))
				for range each {
					// A server that is not connected is asked by nobody to deliver.
					if !newSession {
						s.sendCustom(t, "echo", strconv.Itoa(sent))
						sent++
					}
				}
				s.waitStatus(t, hash, applied)
				if newSession {
					s.wait(t, "one connection", func() bool { return len(s.conns) == 1 })
					s.sendCustom(t, "echo", strconv.Itoa(sent))
					sent++
				}
			}
			s.wait(t, "all echoes", func() bool { return len(s.custom) >= sent })
			s.mu.Lock()
			defer s.mu.Unlock()
			assert.Equal(t, numbers(sent), s.custom)
			if !newSession {
				assert.Equal(t, 1, s.connections)
				assert.LessOrEqual(t, len(s.customCapabilities), 2, "no withdrawal in between: %v", s.customCapabilities)
			} else {
				assert.Greater(t, s.connections, 1)
			}
		})
	}
}

// What nobody reads is dropped and counted; what nobody registers any more is
// withdrawn with the reload.
func TestCustomMessagesThatNobodyReads(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	leases := make(chan *agent.ExtensionLease, 2)
	first := true
	h.component = func(e *agent.ExtensionLease) func() {
		if first {
			listen(t, e, "deaf", 2) // and never unregistered
		}
		first = false
		leases <- e
		return func() {}
	}
	h.start()
	e := receive(t, leases)
	s.wait(t, "the capability", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[deaf]]") })
	for n := range 5 {
		s.sendCustom(t, "deaf", strconv.Itoa(n))
	}
	dropped := func() uint64 { return e.Metrics().CustomMessagesDropped.Received.Load() }
	require.Eventually(t, func() bool { return dropped() == 3 }, waitTime, tick)
	s.push(t, "h1", "receivers: {a: {}}")
	s.waitStatus(t, "h1", applied)
	s.wait(t, "the withdrawal", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[deaf] []]") })
	require.Eventually(t, func() bool { return dropped() == 5 }, waitTime, tick)
	assert.Zero(t, e.Metrics().CustomMessagesDropped.Sent.Load())
	_, err := custommessages.Register(e.CustomMessages(), "late", 1,
		func(m custommessages.Message) int { return len(m.Data) }, func(int) custommessages.Message { return custommessages.Message{} })
	require.ErrorIs(t, err, custommessages.ErrClosed, "the instance was shut down")
}

// Messages that are accepted before there is a server are sent when there is one,
// also those that the session of other settings was given and has not sent.
func TestCustomMessagesWaitForTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.mu.Lock()
	s.refuse = true
	s.mu.Unlock()
	h := newHost(t, s, t.TempDir())
	accepted := make(chan (<-chan struct{}), 5)
	generation := 0
	h.sameSession = func() any { generation++; return generation }
	starts := make(chan struct{}, 2)
	h.component = func(e *agent.ExtensionLease) func() {
		starts <- struct{}{}
		if len(accepted) > 0 {
			return func() {}
		}
		mine := listen(t, e, "a", 1)
		for n := range 5 {
			sent, err := mine.Send("t", []byte(strconv.Itoa(n)))
			if err != nil {
				t.Errorf("sending: %v", err)
			}
			accepted <- sent
		}
		mine.Unregister()
		return func() {}
	}
	h.start()
	s.wait(t, "an attempt", func() bool { return s.refused > 0 })
	s.mu.Lock()
	s.refused = 0
	s.mu.Unlock()
	receive(t, starts)
	h.reload <- struct{}{}
	receive(t, starts)
	s.wait(t, "an attempt", func() bool { return s.refused > 1 })
	s.mu.Lock()
	assert.Empty(t, s.custom)
	s.refuse = false
	s.mu.Unlock()
	s.wait(t, "all messages", func() bool { return len(s.custom) == 5 })
	for range 5 {
		receive(t, receive(t, accepted))
	}
	s.wait(t, "the withdrawal", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[]]") })
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, numbers(5), s.custom)
}

// A partial reload exchanges receivers while the service stays ready: what they
// registered is kept for their successors all the same.
func TestCustomMessagesSurvivePartialReloads(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	leases := make(chan *agent.ExtensionLease, 1)
	registered := make(chan *custommessages.Registration[custommessages.Message], 1)
	h.component = func(e *agent.ExtensionLease) func() {
		registered <- listen(t, e, "a", 10)
		return func() {}
	}
	h.started = func(_ map[string]any, e *agent.ExtensionLease) { leases <- e } // after Ready
	h.start()
	e, former := receive(t, leases), receive(t, registered)
	listen(t, e, "deaf", 1)
	var custom [][]string
	s.wait(t, "the capability", func() bool {
		custom = s.customCapabilities
		return strings.HasSuffix(fmt.Sprint(custom), "[a deaf]]")
	})

	retrieved, err := h.provider.Retrieve(t.Context(), true, func() {})
	require.NoError(t, err)
	former.Unregister()
	s.sendCustom(t, "a", "0")
	s.sendCustom(t, "a", "1")
	s.sendCustom(t, "deaf", "")
	s.sendCustom(t, "deaf", "") // is dropped, and so tells that all others have arrived
	require.Eventually(t, func() bool { return e.Metrics().CustomMessagesDropped.Received.Load() > 0 }, waitTime, tick)
	successor := listen(t, e, "a", 10)
	for _, want := range numbers(2) {
		assert.Equal(t, want, string(receive(t, successor.Messages()).Data))
	}
	// The reload is over when the host has begun no full one for a while. Then
	// what is unregistered is withdrawn.
	sure := listen(t, e, "b", 10)
	s.wait(t, "the second capability", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[a b deaf]]") })
	sure.Unregister()
	s.wait(t, "its withdrawal", func() bool { return strings.HasSuffix(fmt.Sprint(s.customCapabilities), "[a b deaf] [a deaf]]") })
	s.mu.Lock()
	assert.Len(t, s.customCapabilities, len(custom)+2, "the first one was never withdrawn: %v", s.customCapabilities)
	s.mu.Unlock()
	require.NoError(t, retrieved.Done(t.Context()))
}
