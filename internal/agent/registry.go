package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// registry holds the agents of the process by name. It is the package's only
// variable; tests use names of their own.
var registry = struct {
	// mu guards everything below.
	mu     sync.Mutex
	agents map[string]*Agent
	// closing are agents whose last lease was released and that still hold
	// their folder; the channel is closed when they have let go.
	closing map[string]chan struct{}
	// uids are the instance UIDs that were made for agents without a folder:
	// they hold for the life of the process (specification, instance_uid).
	uids map[string]uuid.UUID
	// seen: there was an agent. Created: a provider was made for a Collector.
	seen, created bool
	// fatal is set when an agent was closed because of a FatalError.
	fatal *ended
}{
	agents:  map[string]*Agent{},
	closing: map[string]chan struct{}{},
	uids:    map[string]uuid.UUID{},
}

// lease returns the agent called name, which open makes if there is none, with
// one lease more. An agent of that name that is still closing is waited for.
func lease(ctx context.Context, name string, open func() (*Agent, error)) (*Agent, error) {
	for {
		registry.mu.Lock()
		closing := registry.closing[name]
		if closing == nil {
			break
		}
		registry.mu.Unlock()
		select {
		case <-closing:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the former agent %q to close: %w", name, ctx.Err())
		}
	}
	defer registry.mu.Unlock()
	a := registry.agents[name]
	if a == nil {
		var err error
		if a, err = open(); err != nil {
			return nil, err
		}
		registry.agents[name], registry.seen = a, true
		a.start()
	}
	a.leases++
	return a, nil
}

// release gives one lease back. With the last one the agent is closed, which
// takes until ctx ends at most.
func release(ctx context.Context, a *Agent) error {
	registry.mu.Lock()
	a.leases--
	if a.leases > 0 {
		registry.mu.Unlock()
		return nil
	}
	delete(registry.agents, a.name)
	closed := make(chan struct{})
	registry.closing[a.name] = closed
	registry.mu.Unlock()

	err := a.close(ctx)

	registry.mu.Lock()
	delete(registry.closing, a.name)
	registry.mu.Unlock()
	close(closed)
	return err
}

// allAgents returns the agents that are not closing, sorted by name.
func allAgents() []*Agent {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	agents := make([]*Agent, 0, len(registry.agents))
	for _, name := range slices.Sorted(maps.Keys(registry.agents)) {
		agents = append(agents, registry.agents[name])
	}
	return agents
}

// processUID returns the instance UID of the agent called name that holds for
// the life of the process.
func processUID(name string) uuid.UUID {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	id, ok := registry.uids[name]
	if !ok {
		id = newUID()
		registry.uids[name] = id
	}
	return id
}

func newUID() uuid.UUID { return uuid.Must(uuid.NewV7()) }
