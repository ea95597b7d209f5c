package opampprovider

import (
	"context"
	"errors"
	"fmt"
	"os"
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
//	URI       = "opamp:" [ name ] [ "?" parameter { "&" parameter } ]
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
}

var _ confmap.Provider = (*provider)(nil)

func newProvider(set confmap.ProviderSettings) confmap.Provider {
	log := set.Logger
	if log == nil {
		log = zap.NewNop()
	} else {
		agent.NoteCreated()
	}
	return &provider{log: log, leases: map[string]*agent.ProviderLease{}, dirs: map[string]string{}}
}

// Scheme implements [confmap.Provider].
func (*provider) Scheme() string { return opampuri.Scheme }

// Retrieve implements [confmap.Provider]. Watcher is called at most once for
// each call, never with an error, and never after the result was closed.
func (p *provider) Retrieve(ctx context.Context, uri string, watcher confmap.WatcherFunc) (*confmap.Retrieved, error) {
	at, err := opampuri.Parse(uri)
	if err != nil {
		return nil, err
	}
	if err := agent.CheckURIs(); err != nil {
		return nil, err
	}
	purpose := process.CallerPurpose()
	if purpose != process.PurposeRun {
		conf, err := agent.Peek(at.Name, at.StateDir, purpose)
		if err != nil {
			return nil, fmt.Errorf("reading the remote configuration for %q: %w", uri, err)
		}
		allowNoPipelines(len(conf) == 0)
		return confmap.NewRetrieved(conf)
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
