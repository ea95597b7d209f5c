package agent

import (
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// dropLog is the time between two lines in the log about custom messages that
// were dropped: a server that floods must not fill the log, too.
const dropLog = time.Minute

// custom is the agent's part in custom messages. The registry has a mutex of its
// own, because components wait for its answers and must not wait for the agent.
type custom struct {
	registry *custommessages.Registry
	// out is the session that takes messages; nil until there is one. A session
	// that is being stopped stays until there is another: only then is known
	// what it has not sent.
	out atomic.Pointer[outlet]
	// dropped counts drops that were not logged yet; logged is when some were, in
	// nanoseconds since 1970.
	dropped atomic.Uint64
	logged  atomic.Int64
}

// outlet is a session, and what it told the server of at its start.
type outlet struct {
	session      *session.Session
	capabilities []string
}

// CustomMessages returns what is registered through this instance. It ends with
// the lease.
func (e *ExtensionLease) CustomMessages() *custommessages.Group { return e.messages }

// letOut makes a session the one that takes custom messages; nil if it could
// not be started.
func (a *Agent) letOut(s *session.Session, capabilities []string) {
	if s == nil {
		a.custom.out.Store(nil)
	} else {
		a.custom.out.Store(&outlet{s, capabilities})
	}
	a.custom.registry.Wake()
}

// deliver takes a custom message of the server. The client waits for it.
func (a *Agent) deliver(capability, kind string, data []byte) {
	a.noteDropped(a.custom.registry.Deliver(custommessages.Message{Capability: capability, Type: kind, Data: data}))
}

// customReady tells that all components have started. It may be called by any
// goroutine.
func (a *Agent) customReady() { a.noteDropped(a.custom.registry.Ready()) }

// noteDropped logs that messages were dropped, once in a while.
func (a *Agent) noteDropped(n int) {
	if n == 0 {
		return
	}
	a.custom.dropped.Add(uint64(n)) //nolint:gosec // a count of messages
	last, now := a.custom.logged.Load(), time.Now().UnixNano()
	if now-last < int64(dropLog) || !a.custom.logged.CompareAndSwap(last, now) {
		return
	}
	a.log.Load().Warn("Custom messages of the OpAMP server were dropped: their component does not read them, or is gone",
		zap.Uint64("messages", a.custom.dropped.Swap(0)))
}

// carry announces custom capabilities and hands over messages to the server, one
// after the other, until the agent closes. It is the only goroutine that does.
func (a *Agent) carry() {
	registry := a.custom.registry
	var via *outlet          // what was announced to, and given the head
	var announced []string   // what via was told
	var sent <-chan struct{} // of the head; nil if it is not on its way
	for {
		if out := a.custom.out.Load(); out != via {
			if isClosed(sent) {
				registry.Sent()
			}
			// What the former session has not sent is the head still.
			via, sent = out, nil
			if out != nil {
				announced = out.capabilities
			}
		}
		if via != nil {
			// In this order: what the head needs is among the capabilities.
			head, ok := registry.Head()
			if capabilities := registry.Capabilities(); !slices.Equal(capabilities, announced) {
				announced = capabilities
				a.warn("Announcing custom capabilities", via.session.SetCustomCapabilities(capabilities))
			}
			if ok && sent == nil {
				var err error
				if sent, err = via.session.SendCustomMessage(head.Capability, head.Type, head.Data); err != nil {
					a.warn("A custom message was dropped", err)
					registry.Refused()
				}
			}
		}
		select {
		case <-sent:
			sent = nil
			registry.Sent()
		case <-registry.Changed():
		case <-a.working.Done():
			if n := registry.Queued(); n > 0 {
				a.log.Load().Warn("Custom messages to the OpAMP server were not sent: the agent ends", zap.Int("messages", n))
			}
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
