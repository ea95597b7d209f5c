// Package custommessages keeps the custom capabilities that components
// registered, and the messages on their way to and from them, over reloads.
//
// A component that registers a capability takes a seat of it. In a reload the
// component leaves its seat and its successor takes it; meanwhile the seat keeps
// the capability announced and takes messages. What the component had not read
// stays with the seat, too. A seat that is vacant when the service is ready is
// given up: nobody is going to take it. Components that register one capability
// each have a seat of their own, and every seat is given every message.
//
// In the other direction there is one queue for all components. It knows
// nothing of reloads, nor of connections: see [Registry.Head].
//
// There is no goroutine here, and nothing waits.
package custommessages
