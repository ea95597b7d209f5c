package agent

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
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

// Load opens the folder at path as a starting agent does, and returns what its
// store finds there.
func Load(path, bootID string) (r rollout.Record, notes []string, err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return rollout.Record{}, nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).load(bootID)
}

// LoadReadOnly is Load for a process that takes no part.
func LoadReadOnly(path string) (r rollout.Record, notes []string, err error) {
	dir, err := statedir.OpenReadOnly(path)
	if err != nil {
		return rollout.Record{}, nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).load("boot")
}

// Save saves the record in the folder at path.
func Save(path string, r rollout.Record) (err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).save(r)
}

// SaveValues saves values in the folder at path.
func SaveValues(path string, values ...connsettings.Values) (err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for _, v := range values {
		err = errors.Join(err, (&store{dir}).write(bodyName(v.Digest()), v.Encode()))
	}
	return err
}

// SaveBlocks saves what safe mode runs in the folder at path.
func SaveBlocks(path string, blocks map[string]any) (err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).saveSafe(blocks)
}

// Body looks for the body of a configuration in the folder at path.
func Body(path, digest string) (err error) {
	dir, err := statedir.OpenReadOnly(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	_, err = (&store{dir}).body(digest)
	return err
}

// RemoteConfigOff returns why the agent behind the lease accepts no remote
// configuration, once an extension that accepts one is attached.
func (p *ProviderLease) RemoteConfigOff() (reason string) {
	_ = p.agent.call(context.Background(), func() {
		p.agent.settings.AcceptsRemoteConfig = true
		reason = p.agent.remoteConfigOff()
	})
	return reason
}

// UID returns the instance UID in the folder at path, or makes one.
func UID(path string) (id uuid.UUID, err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return uuid.Nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).uid(newUID)
}

// SaveBody saves the body of a configuration in the folder at path.
func SaveBody(path string, offer remoteconfig.Offer) (err error) {
	dir, err := statedir.Open(path, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&store{dir}).saveBody(offer)
}

// RequestsAreQuiet tells whether the next look at an operator's requests finds
// nothing unless their folder changes.
func (e *ExtensionLease) RequestsAreQuiet() (quiet bool) {
	_ = e.agent.call(context.Background(), func() { quiet = !e.agent.looked.at.IsZero() })
	return quiet
}
