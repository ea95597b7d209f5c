package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// ExtensionSettings are what an extension instance knows.
type ExtensionSettings struct {
	// ID is the extension's component ID, for example "opamp/edge".
	ID string
	// Requires are the IDs of all extensions without which this one does not
	// start, itself included.
	Requires []string
	// Session says how to connect. Its UID, initial state, callbacks, logger
	// and authorization are the agent's affair and are ignored.
	Session session.Settings
	// SameSession identifies Session: as long as two instances give equal
	// values, the session of the former is kept. Compared with
	// [reflect.DeepEqual].
	SameSession any
	// Authorize adds credentials to the requests to the server; nil if there
	// are none.
	Authorize func(session.Request) (http.Header, error)
	// InstanceUID is the configured UID; zero if none is.
	InstanceUID uuid.UUID
	// Describe returns who the agent with the given UID is.
	Describe   func(uuid.UUID) session.Description
	Components session.Components
	// RequestUID asks the server for an instance UID, if none is configured or
	// saved.
	RequestUID bool
	// Restart makes the host end in order, as if a component had failed for good;
	// the process is then replaced. Nil if the server may not ask for that. It may
	// block, and is called by a goroutine of its own.
	Restart func()
	// AcceptsRemoteConfig is the user's consent; an opamp: URI and a usable
	// state folder are needed besides.
	AcceptsRemoteConfig bool
	// Supervised means that another process decides what this one runs: nothing
	// is accepted, nothing kept, and the process never replaced.
	Supervised bool
	Rollout    Rollout
	// Policy judges remote configurations; nil means the default one.
	Policy *policy.Policy
	View   effectiveconfig.View
	// Connections say what is accepted of offered connections.
	Connections Connections
	// Applied is told how long it took from the begin of an offer's dry run until
	// it was applied, trial included. It may be nil, is called by the agent's
	// goroutine and must not wait.
	Applied func(time.Duration)
	Log     *zap.Logger
}

// ExtensionLease is an extension instance's hold on an agent. Its methods are
// safe for concurrent use and do not wait for the agent, but for Release.
type ExtensionLease struct {
	agent    *Agent
	messages *custommessages.Group
	once     sync.Once
	err      error
}

// AcquireExtension attaches an extension instance to the agent called name,
// which is made if there is none. It starts the session, unless the agent has
// one with the same settings. The caller must Release the lease.
func AcquireExtension(ctx context.Context, name string, set ExtensionSettings) (*ExtensionLease, error) {
	a, err := lease(ctx, name, func() (*Agent, error) {
		if set.Supervised {
			return newAgent(name, nil, errSupervised, set.Log), nil
		}
		// No opamp: URI is given. A folder only serves to keep the instance
		// UID then: it is used if somebody made it for us, and any trouble with
		// it is none of the user's.
		dir, err := openExisting(name)
		if err != nil {
			set.Log.Info("The instance UID holds for the life of this process only", zap.Error(err))
		}
		return newAgent(name, dir, err, set.Log), nil
	})
	if err != nil {
		return nil, err
	}
	e := &ExtensionLease{agent: a, messages: a.custom.registry.NewGroup()}
	var attachErr error
	err = a.call(ctx, func() { attachErr = a.attach(e, set) })
	if err == nil { // with an error, attachErr may still be written
		err = attachErr
	}
	if err != nil {
		return nil, errors.Join(err, e.Release(ctx))
	}
	return e, nil
}

func openExisting(name string) (*statedir.Dir, error) {
	path, err := statedir.Locate("", name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("looking for the state folder: %w", err)
	}
	former, _ := process.FromFormer()
	dir, err := statedir.Open(path, former.File(lockFile(name)))
	if dir != nil && err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, err
}

// Release detaches the instance.
func (e *ExtensionLease) Release(ctx context.Context) error {
	e.once.Do(func() {
		a := e.agent
		e.messages.Close()
		err := a.call(ctx, func() {
			if a.extension == e {
				a.extension = nil
			}
		})
		e.err = errors.Join(err, release(ctx, a))
	})
	return e.err
}

// NotifyConfig takes the configuration that the host is about to start.
func (e *ExtensionLease) NotifyConfig(s effectiveconfig.Snapshot) {
	e.post(func(a *Agent) {
		a.snapshot = s
		a.running = a.latest
	})
}

// Ready tells that all components have started.
func (e *ExtensionLease) Ready() {
	e.agent.customReady() // at once: what components do from now on is no part of a reload
	e.post(func(a *Agent) {
		a.ready = true
		if a.started.IsZero() {
			a.started = time.Now()
		}
		a.step(rollout.Ready{Generation: a.machine.Instance()})
		a.reportEffective()
		a.saveSafeMode()
		a.reportHealth(true)
		a.reviseValues()
		if a.restarts == restartWanted {
			a.restartCommanded()
		}
	})
}

// NotReady tells that the host begins to stop the service.
func (e *ExtensionLease) NotReady() {
	e.agent.custom.registry.NotReady() // at once: components are stopped next
	e.post(func(a *Agent) {
		a.ready = false
		a.step(rollout.NotReady{Generation: a.machine.Instance()})
	})
}

// ComponentStatus takes a status event of a component. The host calls it under
// its lock.
func (e *ExtensionLease) ComponentStatus(source *componentstatus.InstanceID, event *componentstatus.Event) {
	e.post(func(a *Agent) {
		if a.restarts == restartOrdered && source.ComponentID().String() == a.settings.ID {
			return // it is how the host was told to end
		}
		a.tree.Record(source, event)
		state, ok := componentState(event.Status())
		if !ok {
			return
		}
		text := ""
		if err := event.Err(); err != nil {
			text = a.scrubber.Text(err.Error())
		}
		if state == rollout.ComponentFatal && a.fatal == "" {
			a.fatal = componentName(source) + ": " + text
			if told := a.told; told != nil {
				// Nobody listens for it any more: the host is deadlocked on its own
				// status lock, or soon will be (core issue 12495).
				time.AfterFunc(min(stopGrace, a.settings.Rollout.DrainTimeout), func() { process.Die(told) })
			}
		}
		a.step(rollout.ComponentStatus{
			Generation: a.machine.Instance(),
			Key:        componentKey(source),
			Component:  componentName(source),
			State:      state,
			Err:        text,
		})
		a.reportHealth(false)
	})
}

// NoteEarly takes a status event that an extension instance sees before its
// Start, for example of an extension that starts before it. It does nothing if
// there is no agent called name.
func NoteEarly(name string, source *componentstatus.InstanceID, event *componentstatus.Event) {
	fatal := event.Status() == componentstatus.StatusFatalError
	if (!fatal && event.Status() != componentstatus.StatusPermanentError) || event.Err() == nil {
		return
	}
	registry.mu.Lock()
	a := registry.agents[name]
	registry.mu.Unlock()
	if a == nil {
		return
	}
	a.queue.post(func() {
		text := componentName(source) + ": " + a.scrubber.Text(event.Err().Error())
		a.step(rollout.Evidence{Text: text, Fatal: fatal})
	})
}

// post runs f on the agent's goroutine, if this is still the attached instance
// by then: late events of a former one are dropped.
func (e *ExtensionLease) post(f func(*Agent)) {
	a := e.agent
	a.queue.post(func() {
		if a.extension == e {
			f(a)
		}
	})
}

func componentState(s componentstatus.Status) (rollout.ComponentState, bool) {
	states := map[componentstatus.Status]rollout.ComponentState{
		componentstatus.StatusStarting:         rollout.ComponentStarting,
		componentstatus.StatusOK:               rollout.ComponentRunning,
		componentstatus.StatusRecoverableError: rollout.ComponentRunning,
		componentstatus.StatusPermanentError:   rollout.ComponentPermanent,
		componentstatus.StatusFatalError:       rollout.ComponentFatal,
		componentstatus.StatusStopping:         rollout.ComponentStopping,
		componentstatus.StatusStopped:          rollout.ComponentStopped,
	}
	state, ok := states[s]
	return state, ok
}

// attach makes e the instance of the generation that was retrieved last.
func (a *Agent) attach(e *ExtensionLease, set ExtensionSettings) error {
	former := a.settings
	a.extension, a.settings = e, set
	a.supervised = a.supervised || set.Supervised
	a.tree = health.NewTree()
	if a.provider == nil {
		a.log.Store(set.Log) // the provider's logger outlives services; without one, this is all there is
	}
	authorize := set.Authorize
	if authorize == nil {
		authorize = func(session.Request) (http.Header, error) { return nil, nil }
	}
	a.authorize.Store(&authorize)
	a.step(rollout.Started{})
	a.instance = a.machine.Instance()
	a.running = a.latest
	if !reflect.DeepEqual(a.required, set.Requires) || former.Rollout != set.Rollout {
		a.required = set.Requires
		a.saveExtension(set)
	}
	if off := a.remoteConfigOff(); off != "" && former.ID == "" {
		a.log.Load().Info("Remote configuration is off", zap.String("reason", off))
	}
	a.bootConnections()
	if a.session != nil && reflect.DeepEqual(former.SameSession, set.SameSession) {
		a.describe()
		return nil
	}
	return a.switchSession()
}

// saveExtension saves what the next process must know before it has an extension.
func (a *Agent) saveExtension(set ExtensionSettings) {
	if a.storeErr != nil {
		return
	}
	if err := errors.Join(a.store.saveRequired(set.Requires), a.store.saveTimes(set.Rollout)); err != nil {
		a.log.Load().Warn("Saving what the next start must know of this extension", zap.Error(err))
	}
}

// switchSession starts a session with the latest settings, after the former
// one, if any, has ended: an agent has one connection at most.
func (a *Agent) switchSession() error {
	if a.switching {
		return nil // the goroutine that stops the former one comes back here
	}
	if a.session == nil {
		return a.beginSession()
	}
	former := a.session
	a.session, a.switching = nil, true
	a.log.Load().Info("The settings of the OpAMP connection changed: connecting anew")
	a.work.Go(func() {
		ctx, cancel := sessionContext()
		defer cancel()
		err := former.Stop(ctx)
		a.queue.post(func() {
			a.switching = false
			if err != nil {
				a.log.Load().Warn("Ending the former OpAMP session", zap.Error(err))
			}
			if a.working.Err() != nil {
				return
			}
			if err := a.beginSession(); err != nil {
				a.log.Load().Error("No connection to the OpAMP server", zap.Error(err))
			}
		})
	})
	return nil
}

// startSession starts a session that reports all there is to report.
func (a *Agent) startSession() error {
	uid, err := a.uid()
	if err != nil {
		a.log.Load().Warn("The instance UID is not saved and will change with the next start", zap.Error(err))
	}
	record := a.machine.Record()
	a.reported = session.State{
		Description:     a.settings.Describe(uid),
		Health:          a.healthNode(),
		EffectiveConfig: a.reported.EffectiveConfig,
		Components:      a.settings.Components,
		RemoteConfig:    status(record.Status),
		Settings:        a.settingsStatus(),

		CustomCapabilities: a.custom.registry.Capabilities(),
	}
	set := a.settings.Session
	a.reported.Settings.Open = a.offerOpen()
	set.InstanceUID = uid
	set.Initial = a.reported
	set.Log = logAdapter{&a.log}
	set.Capabilities.RemoteConfig = a.remoteConfigOff() == ""
	set.Authorize = func(r session.Request) (http.Header, error) { return (*a.authorize.Load())(r) }
	a.connections.attempt++
	if err := a.connect(&set); err != nil {
		return err
	}
	a.acceptSettings(&set.Capabilities)
	set.Callback = a.callbacks(set.Transport, a.connections.attempt)
	set.Counters = &a.counters
	set.Pace = &a.pace
	if a.inUse() != nil && a.connections.opamp.Record().Candidate != nil {
		set.Pace = &session.Pace{} // what was learnt of the former settings says nothing of these
	}
	set.RequestInstanceUID = a.requestingUID()
	s, err := session.Start(a.working, set)
	a.letOut(s, a.reported.CustomCapabilities)
	if err != nil {
		return fmt.Errorf("starting the OpAMP session: %w", err)
	}
	a.session = s
	a.startVerifyTimer()
	a.planCertificate()
	return nil
}
