package session_test

import (
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// Conformance: 147
func TestCustomMessages(t *testing.T) {
	t.Parallel()
	for _, transport := range []session.Transport{session.WebSocket, session.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			server := startServer(t, nil)
			server.answer.CustomMessage = &protobufs.CustomMessage{Capability: "b", Type: "in", Data: []byte("x")}
			set, _ := settings(t, transport, server.url(transport))
			set.Initial.CustomCapabilities = []string{"a", "b"}
			got := make(chan string, 100)
			set.Callback.CustomMessage = func(capability, kind string, data []byte) {
				got <- capability + " " + kind + " " + string(data)
			}
			s := start(t, set)
			assert.Equal(t, []string{"a", "b"}, server.next(t).GetCustomCapabilities().GetCapabilities(), "in the first message")
			select {
			case m := <-got:
				assert.Equal(t, "b in x", m)
			case <-time.After(waitTime):
				t.Fatal("no custom message arrived")
			}

			_, err := s.SendCustomMessage("c", "out", nil)
			require.ErrorContains(t, err, `sending a custom message of capability "c"`)
			require.NoError(t, s.SetCustomCapabilities([]string{"c"}))
			sent, err := s.SendCustomMessage("c", "out\xff", []byte("y"))
			require.NoError(t, err)
			var announced []string
			for {
				m := server.next(t)
				if c := m.GetCustomCapabilities(); c != nil {
					announced = c.GetCapabilities()
				}
				if c := m.GetCustomMessage(); c != nil {
					assert.Equal(t, "c out� y", c.GetCapability()+" "+c.GetType()+" "+string(c.GetData()))
					break
				}
			}
			assert.Equal(t, []string{"c"}, announced)
			select {
			case <-sent:
			case <-time.After(waitTime):
				t.Fatal("the message that arrived was not sent")
			}
		})
	}
}

// A server that knows capabilities of a former process is told that there are
// none.
func TestNoCustomCapabilities(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	start(t, set)
	custom := server.next(t).GetCustomCapabilities()
	require.NotNil(t, custom)
	assert.Empty(t, custom.GetCapabilities())
}
