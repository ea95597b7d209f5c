//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/echoextension"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	echoCapability = "com.example.e2e"
	// messageInterval is the time between two messages in each direction. What a
	// capability is kept for takes 1000 of them, which is 20 s of a reload.
	messageInterval = 20 * time.Millisecond
)

// echo is a layer with a component that sends every custom message back, and some
// of its own.
func echo() string {
	return fmt.Sprintf(`
extensions: {echo: {capability: %s, interval: %s}}
service: {extensions: [opamp, echo]}
`, echoCapability, messageInterval)
}

// customMessages returns the data of the custom messages of one type that
// arrived, in order.
func (w *world) customMessages(kind string) []string {
	var all []string
	for _, m := range w.server.Messages() {
		if c := m.Received.GetCustomMessage(); c.GetType() == kind && c.GetCapability() == echoCapability {
			all = append(all, string(c.GetData()))
		}
	}
	return all
}

// A component sends and receives custom messages over ten applied configurations,
// each of which replaces it: no message that was accepted is lost, in either
// direction, and the server does not see that it was replaced.
func TestCustomMessagesOverReloads(t *testing.T) {
	t.Parallel()
	const changes = 10
	for name, o := range map[string]options{
		"ws":   {transport: opampserver.WebSocket},
		"http": {transport: opampserver.HTTP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, o)
			c := w.start(w.args(w.layer("echo.yaml", echo())))
			agent := w.managed()
			_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
				return strings.Join(a.CustomCapabilities, " ") == echoCapability
			})
			require.NoError(t, err)
			mark := w.server.Mark()

			// The server sends numbers until the end of the changes.
			ctx, stop := context.WithCancel(t.Context())
			sent := make(chan int)
			go func() {
				n := 0
				defer func() { sent <- n }()
				ticker := time.NewTicker(messageInterval)
				defer ticker.Stop()
				for {
					select {
					case <-ticker.C:
					case <-ctx.Done():
						return
					}
					err := w.server.Send(agent.UID, &protobufs.ServerToAgent{CustomMessage: &protobufs.CustomMessage{
						Capability: echoCapability, Type: "number", Data: []byte(strconv.Itoa(n)),
					}})
					if !assert.NoError(t, err) {
						return
					}
					n++
				}
			}()
			for i := range changes {
				w.apply(agent, marking(fmt.Sprint("change ", i)))
			}
			stop()
			n := <-sent
			require.Greater(t, n, changes, "messages of the server")
			eventually(t, func() bool { return len(w.customMessages(echoextension.TypeEcho)) >= n }, "every message must come back")
			want := make([]string, n)
			for i := range want {
				want[i] = strconv.Itoa(i)
			}
			assert.Equal(t, want, w.customMessages(echoextension.TypeEcho), "each once, in order")

			// The component numbers its own messages, and tells at its end how many
			// were accepted.
			eventually(t, func() bool { return len(w.customMessages(echoextension.TypeEnd)) >= changes }, "every instance but the last must have ended")
			arrived := map[string]int{}
			for _, text := range w.customMessages(echoextension.TypeCount) {
				generation, number, _ := strings.Cut(text, " ")
				require.Equal(t, strconv.Itoa(arrived[generation]), number, "the next message of generation %s", generation)
				arrived[generation]++
			}
			ends := w.customMessages(echoextension.TypeEnd)
			require.Len(t, ends, changes)
			for _, text := range ends {
				generation, accepted, _ := strings.Cut(text, " ")
				assert.Equal(t, accepted, strconv.Itoa(arrived[generation]), "messages of generation %s", generation)
			}
			require.Greater(t, len(w.customMessages(echoextension.TypeCount)), changes)

			for _, m := range w.server.MessagesFrom(mark) {
				assert.Nil(t, m.Received.GetCustomCapabilities(), "the capability stays as it was announced")
			}
			assert.Equal(t, changes, c.count(logReload))
			assert.Zero(t, c.count(logDropped))
			c.requireAlive()
			w.requireOneSession()
		})
	}
}

// What the next configuration has no component for is withdrawn.
func TestCustomCapabilityIsWithdrawnWithItsComponent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.start(w.args())
	agent := w.managed()
	announced := func(want string) {
		t.Helper()
		_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
			return strings.Join(a.CustomCapabilities, " ") == want
		})
		require.NoError(t, err)
	}
	announced("")
	w.apply(agent, echo())
	announced(echoCapability)
	w.apply(agent, marking("no component"))
	announced("")
	w.requireOneSession()
}
