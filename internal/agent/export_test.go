package agent

import (
	"context"

	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
)

// SetDryRun replaces the dry run of the agent behind the lease: a test binary
// has no validate command.
func (p *ProviderLease) SetDryRun(f func(context.Context, preflight.Settings) preflight.Outcome) {
	_ = p.agent.call(context.Background(), func() { p.agent.dryRun = f })
}

// Leases returns the number of agents of the process.
func Agents() int {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	return len(registry.agents) + len(registry.closing)
}
