package opampprovider

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/featuregate"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/guard"
	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// NewFactory returns a factory for the provider of the scheme "opamp". It is to
// be given to the Collector with --config, together with an extension opamp of
// the same name:
//
//	URI       = "opamp:" [ name ] [ "?" parameter { "&" parameter } | "#" value-path [ ":-" default ] ]
//	parameter = "state_dir=" absolute-path | "guard=" ( "true" | "false" )
//
// "opamp:" belongs to the extension "opamp", "opamp:edge" to "opamp/edge". The
// state folder is state_dir, else $OTELCOL_OPAMP_STATE_DIR, else
// $STATE_DIRECTORY, which systemd sets, else the platform's default, on Linux
// /var/lib/otelcol-opamp. Each name has a subfolder of its own.
//
// With guard=true, at the first Retrieve of a Collector that will run the
// configuration, the process becomes the parent of another one with the same
// arguments, which it starts again when it dies; Retrieve does not return then.
//
// The configuration is the remote one that is to run; it is empty when there is
// none. The order of --config is the order of merging: a local file after
// "opamp:" holds whatever a server sends.
//
// With a value-path it is one value of a connection that the server has offered, to
// be written inside a configuration: ${opamp:#other_connections/backend/endpoint}, or
// ${opamp:edge#…} for a named agent. An opamp: URI of the same name must be among
// --config. Values are strings, whatever they look like; but
// tls/insecure_skip_verify, and what other/… holds, may stand for a bool or a number
// where a component wants one, as those of ${env:…} may. Nothing in a value is
// expanded again.
//
// Commands that do not run the configuration (validate, print-config) are given
// the same and change nothing.
func NewFactory() confmap.ProviderFactory { return confmap.NewProviderFactory(newProvider) }

// provider is inert until a Collector that will run the configuration calls
// Retrieve: generated mains create providers only to learn their scheme.
type provider struct {
	log *zap.Logger

	// mu guards everything below. The host calls one method at a time, but for
	// the closing functions of what Retrieve returned.
	mu     sync.Mutex
	leases map[string]*agent.ProviderLease
	dirs   map[string]string // the state_dir that each lease was taken with
	// mains has the state_dir of each URI that stands for a configuration, by name.
	// The host retrieves these before it expands values.
	mains map[string]string
	// offered returns a value that the server has offered; ok is false if there is
	// none. It is [provider.offeredValue] but in tests.
	offered func(ctx context.Context, at opampuri.URI, purpose process.Purpose) (value string, ok bool, err error)
}

var _ confmap.Provider = (*provider)(nil)

func newProvider(set confmap.ProviderSettings) confmap.Provider {
	log := set.Logger
	if log == nil {
		log = zap.NewNop()
	} else {
		agent.NoteCreated()
	}
	p := &provider{log: log, leases: map[string]*agent.ProviderLease{}, dirs: map[string]string{}, mains: map[string]string{}}
	p.offered = p.offeredValue
	return p
}

// Scheme implements [confmap.Provider].
func (*provider) Scheme() string { return opampuri.Scheme }

// Retrieve implements [confmap.Provider]. Watcher is called at most once for
// each call, never with an error, and never after the result was closed. It is not
// called for values: the one of their configuration tells of them, too.
func (p *provider) Retrieve(ctx context.Context, uri string, watcher confmap.WatcherFunc) (*confmap.Retrieved, error) {
	at, err := opampuri.Parse(uri)
	if err != nil {
		return nil, err
	}
	if err := agent.CheckURIs(); err != nil {
		return nil, err
	}
	purpose := process.CallerPurpose()
	if at.Value != "" {
		return p.value(ctx, uri, at, purpose)
	}
	p.mu.Lock()
	p.mains[at.Name] = at.StateDir
	p.mu.Unlock()
	if purpose != process.PurposeRun {
		peeked, err := agent.Peek(at.Name, at.StateDir, purpose)
		if err != nil {
			return nil, fmt.Errorf("reading the remote configuration for %q: %w", uri, err)
		}
		allowNoPipelines(peeked.NoPipelines)
		return confmap.NewRetrieved(peeked.Conf)
	}
	lease, err := p.lease(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("opening the OpAMP agent for %q: %w", uri, err)
	}
	changed := func() {}
	if watcher != nil {
		changed = func() { watcher(&confmap.ChangeEvent{}) }
	}
	retrieved, err := lease.Retrieve(ctx, partialReload(), changed)
	if err != nil {
		return nil, err
	}
	allowNoPipelines(retrieved.NoPipelines)
	return confmap.NewRetrieved(retrieved.Conf, confmap.WithRetrievedClose(retrieved.Done))
}

func (p *provider) value(ctx context.Context, uri string, at opampuri.URI, purpose process.Purpose) (*confmap.Retrieved, error) {
	p.mu.Lock()
	_, ok := p.mains[at.Name]
	p.mu.Unlock()
	main := opampuri.Scheme + ":" + at.Name
	if !ok {
		return nil, fmt.Errorf("%q is a value of an agent that has no URI: add --config=%s", uri, main)
	}
	value, ok, err := p.offered(ctx, at, purpose)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the value for %q: %w", uri, err)
	case ok:
		return retrieved(at.Value, value)
	case at.Default != nil:
		return retrieved(at.Value, *at.Default)
	default:
		return nil, fmt.Errorf("there is no value %q: the OpAMP server has offered none; give a default if the Collector is to start without: ${%s#%s:-default}", at.Value, main, at.Value)
	}
}

func (p *provider) offeredValue(ctx context.Context, at opampuri.URI, purpose process.Purpose) (value string, ok bool, err error) {
	p.mu.Lock()
	lease, dir := p.leases[at.Name], p.mains[at.Name]
	p.mu.Unlock()
	if lease != nil {
		return lease.Value(ctx, at.Value)
	}
	return agent.PeekValue(at.Name, dir, at.Value, purpose)
}

// retrieved gives the host a value as it stands. The host expands what it is given
// once more, and makes one dollar sign of two at the end.
func retrieved(path, value string) (*confmap.Retrieved, error) {
	if field := opampuri.Field(path); field == "tls/insecure_skip_verify" || strings.HasPrefix(field, "other/") {
		ret, err := confmap.NewRetrievedFromYAML([]byte(value))
		if err != nil {
			return nil, err
		}
		raw, err := ret.AsRaw()
		if err != nil {
			return nil, err
		}
		switch raw.(type) {
		case bool, int, int64, float64:
			return ret, nil // with the string that it was, for a component that wants that
		}
	}
	return confmap.NewRetrieved(strings.ReplaceAll(value, "$", "$$"))
}

func (p *provider) lease(ctx context.Context, at opampuri.URI) (*agent.ProviderLease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if lease, ok := p.leases[at.Name]; ok {
		if p.dirs[at.Name] != at.StateDir {
			return nil, fmt.Errorf("the agent %q is given two state folders: state_dir is %q here and %q elsewhere", at.Name, at.StateDir, p.dirs[at.Name])
		}
		return lease, nil
	}
	if at.Guard && agent.Supervised(at.Name, os.Args[1:]) {
		p.log.Info("No guard: the extension has a `ppid`, and the process with that ID starts the Collector again when it dies")
	} else if at.Guard {
		if len(p.leases) > 0 && !guard.Child() {
			return nil, errLateGuard
		}
		guard.Become() // nothing has started yet
	}
	if !process.UnderCobra() {
		p.log.Warn("The main of this program is no cobra command, as those that ocb generates are: a configuration that does not start ends the process, and the next start of the process goes back")
	}
	lease, err := agent.AcquireProvider(ctx, at.Name, at.StateDir, p.log)
	if err != nil {
		return nil, err
	}
	p.leases[at.Name], p.dirs[at.Name] = lease, at.StateDir
	return lease, nil
}

var errLateGuard = errors.New("guard=true must be in the first opamp: URI: the agent of an earlier one runs already")

// Shutdown implements [confmap.Provider].
func (p *provider) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for name, lease := range p.leases {
		errs = append(errs, lease.Release(ctx))
		delete(p.leases, name)
	}
	return errors.Join(errs...)
}

// Gates of the host.
const (
	gateNoPipelines      = "service.AllowNoPipelines"
	gatePartial          = "service.partialReload"
	gatePartialReceivers = "service.partialReloadReceivers"
)

// partialReload reports whether the host may exchange receivers in place.
func partialReload() bool { return gateEnabled(gatePartial) && gateEnabled(gatePartialReceivers) }

func gateEnabled(id string) bool {
	enabled := false
	featuregate.GlobalRegistry().VisitAll(func(g *featuregate.Gate) {
		if g.ID() == id {
			enabled = g.IsEnabled()
		}
	})
	return enabled
}

// noPipelines remembers what the user made of the gate. The gate is a variable
// of the process, so this is one too.
var noPipelines struct {
	once sync.Once
	user bool
}

// allowNoPipelines lets the host start without a pipeline as long as there is
// no remote configuration: an agent that waits for its first one has none.
// Otherwise the user's choice holds, so that a remote configuration without a
// pipeline is refused as everywhere.
func allowNoPipelines(allow bool) {
	noPipelines.once.Do(func() { noPipelines.user = gateEnabled(gateNoPipelines) })
	// A host that no longer has the gate needs it no more.
	_ = featuregate.GlobalRegistry().Set(gateNoPipelines, allow || noPipelines.user)
}
