package rollout

import "github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"

// Event is something that happened. See the types below.
type Event interface{ event() }

// Booted is the first event of a process.
type Booted struct {
	// Record is what the folder held.
	Record Record
	// BootID identifies this boot of the machine; empty if it is not known.
	BootID string
	// Evidence is what the former process left that explains its death; empty
	// if there is nothing.
	Evidence string
	// SafeMode means that the process was started to run nothing but the agent.
	SafeMode bool
	// NoSafeMode means that there is nothing that could be run in safe mode.
	NoSafeMode bool
	// Managed means that an extension belongs to this agent. Otherwise nobody may
	// ever say that the service is ready, and its silence proves nothing.
	Managed bool
}

// Offered means that the server sent a remote configuration.
type Offered struct {
	// Ref has no values: the configuration is tried with those of the last known
	// good.
	Ref remoteconfig.Ref
	// Context is what a verdict of the dry run depends on besides the
	// configuration: executable, local layers, policy.
	Context string
}

// SettingsOffered means that the server sent connection settings that give values
// to the configuration. They are tried with the remote configuration of the last
// known good.
type SettingsOffered struct {
	// Hash is the server's for the settings, in hexadecimal. One without is ignored:
	// nothing could be said to the server about it.
	Hash string
	// Values is the digest of the values; empty if the settings withdraw all.
	Values string
	// Context is as in [Offered].
	Context string
}

// Checked is the outcome of the dry run.
type Checked struct {
	// Ref is that of the [Check].
	Ref     remoteconfig.Ref
	Context string
	// Reason is empty if the configuration passed.
	Reason string
	// Transient means that the failure says nothing about the configuration
	// (a full disk, say): it is not remembered.
	Transient bool
}

// Retrieve means that the host asks for the configuration.
type Retrieve struct {
	// Partial says that the host may apply the configuration without
	// restarting the service (gate service.partialReload), because it asks
	// while the service is running.
	Partial bool
	// Managed is as in [Booted]; local files may have changed since.
	Managed bool
}

// Started means that an extension instance was started. It belongs to the
// generation that was served last.
type Started struct{}

// Ready means that the host reported that all components of the generation
// have started.
type Ready struct{ Generation uint64 }

// NotReady means that the host begins to stop the service of the generation.
type NotReady struct{ Generation uint64 }

// ComponentStatus is a status event of a component, as seen by the extension
// instance of the generation.
type ComponentStatus struct {
	Generation uint64
	// Key identifies the component over generations.
	Key string
	// Component names the instance for people, for example
	// "exporter otlp in pipelines traces, metrics".
	Component string
	State     ComponentState
	// Err is the component's error text; empty if it has none.
	Err string
}

// ComponentState is the part of a component's status that decides.
type ComponentState string

// The states of a component. Recoverable errors are no verdict, so they count
// as running.
const (
	ComponentStarting  ComponentState = "starting"
	ComponentRunning   ComponentState = "running"
	ComponentPermanent ComponentState = "permanent"
	ComponentFatal     ComponentState = "fatal"
	ComponentStopping  ComponentState = "stopping"
	ComponentStopped   ComponentState = "stopped"
)

// TimerFired means that the time of a [StartTimer] has passed.
type TimerFired struct{ ID uint64 }

// PersistFailed means that a [Persist] marked Must failed.
type PersistFailed struct{ Reason string }

// Evidence is an error that was seen where no instance is attached yet, for
// example of an extension that starts before this one.
type Evidence struct {
	Text string
	// Fatal means that the host was told of a FatalError.
	Fatal bool
}

// HostEnded means that the host's Run has returned or panicked and nobody had
// asked the process to end.
type HostEnded struct {
	// Reason says what is known of it.
	Reason string
	// LocalBroken means that not even the local layers can be read: no rung but
	// safe mode can do without them.
	LocalBroken bool
	// NoSafeMode is as in [Booted].
	NoSafeMode bool
}

// Repaired means that a process in safe mode found that what is local has
// changed and is valid again.
type Repaired struct{}

// Unusable answers a [Serve] whose configuration cannot be given to the host,
// although it was once: it cannot be read, or this executable does not accept it
// any more.
type Unusable struct {
	Ref    remoteconfig.Ref
	Reason string
}

// GoneBack means that an operator wants an earlier known good to run instead of
// the last. It may only come while [Machine.AtRest].
type GoneBack struct{ To remoteconfig.Ref }

// Forgiven means that an operator cleared the list of rejections, of both kinds.
type Forgiven struct{}

// Stopping means that the process was asked to end and will do so in order.
type Stopping struct {
	// NotComingUp means that what it was given has been starting for so long
	// that this may be why.
	NotComingUp bool
}

func (Booted) event()          {}
func (Offered) event()         {}
func (SettingsOffered) event() {}
func (Checked) event()         {}
func (Retrieve) event()        {}
func (Started) event()         {}
func (Ready) event()           {}
func (NotReady) event()        {}
func (ComponentStatus) event() {}
func (TimerFired) event()      {}
func (PersistFailed) event()   {}
func (Stopping) event()        {}
func (Evidence) event()        {}
func (Repaired) event()        {}
func (HostEnded) event()       {}
func (Unusable) event()        {}
func (GoneBack) event()        {}
func (Forgiven) event()        {}
