// Package agent owns the process-wide OpAMP agent: one goroutine with one
// queue, which steps the rollout and performs its effects.
//
// Three lifetimes meet here:
//
//	process     Agent                from the first lease to the last
//	resolver    confmap provider     holds the outer lease, survives reloads
//	generation  extension instance   holds an inner lease, one per full reload
//
// The provider's lifetime encloses every extension's, so that counting leases
// alone keeps the OpAMP session over a reload: the Collector stops the old
// extension before it creates the new one.
//
// One turn of the data:
//
//	server → session → queue → remoteconfig.Parse → preflight.Run → rollout.Step
//	  effects: Persist(record) → Trigger → Report
//	watcher → the Collector stops the service, calls Retrieve, builds the new one
//	  → extension Start → NotifyConfigSnapshot → Ready → rollout.Step
//	  effects: Persist(last known good) → Report(APPLIED), or
//	           Persist(verdict) → Trigger → Report(FAILED)
//
// Everything but the registry is owned by the agent's goroutine; other
// goroutines post functions to the queue. Custom messages do not go through it:
// components wait for the answers, so that their registry has a lock of its own
// (internal/custommessages) and a goroutine hands them to the session (carry).
package agent
