package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/scrub"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

const (
	// callTimeout bounds what the host waits for the agent's goroutine, which
	// never waits for the host: only a disk that hangs takes this long.
	callTimeout = 30 * time.Second
	// retrySave is the time after which a record that could not be saved, and
	// need not have been, is tried again.
	retrySave = 5 * time.Second
	// stopTimeout bounds the farewell to the server: opamp-go waits 5 s for
	// the server's side of it.
	stopTimeout = 6 * time.Second
	// settleTime is how long the host may take from Retrieve to the begin of a
	// full reload: it decodes and compares the configuration, which takes tens
	// of milliseconds for large ones. (Half of apply_timeout if that is less: a
	// reload in place that nothing is seen of must not look like one that hangs.)
	settleTime = time.Second
	// quietTime is how long the host may take from one component that it exchanges
	// in place to the next: it only creates it meanwhile, which takes less than a
	// millisecond. A component that fails later fails in the trial.
	quietTime = 100 * time.Millisecond
	// stopGrace is how long the Collector may take to notice that it was told
	// to end: it does so at once, unless a component hangs in a reload. It is
	// below the 30 s after which Kubernetes kills.
	stopGrace = 20 * time.Second
	// remindAfter is the time between two reminders of a signal.
	remindAfter = 100 * time.Millisecond
	// folderLook is the time between two looks at a folder that cannot be
	// written: a disk that was full is soon in use again.
	folderLook = 10 * time.Second
	// slowStart is how long a start takes at most that nobody would stop for
	// being slow: probes give a Collector more than that.
	slowStart = 10 * time.Second
	// startGrace is the same for a Collector that may not be listening yet.
	startGrace = time.Second
	// fatalTime is how long the Collector may take to end after a FatalError.
	// It does so at once, unless two of them have left it deadlocked.
	fatalTime = 2 * time.Second
	// pairTimeout is how long an extension may take to turn up after the
	// provider was asked; then its absence is worth a line in the log.
	pairTimeout = time.Minute
)

// Rollout holds the durations of a rollout.
type Rollout struct {
	PreflightTimeout, DrainTimeout, ApplyTimeout, TrialPeriod time.Duration
}

// DefaultRollout returns the defaults, which hold until an extension says
// otherwise; what it says holds for the next start, too.
func DefaultRollout() Rollout {
	return Rollout{
		PreflightTimeout: 30 * time.Second, // seen: 0.1 s; a slow machine under load is far from this
		DrainTimeout:     60 * time.Second, // what exporters may need to send their queues
		ApplyTimeout:     60 * time.Second, // what a component may wait for a backend in Start
		TrialPeriod:      5 * time.Second,  // what a component needs to find out that it cannot work
	}
}

// Agent is the process-wide OpAMP agent of one name. It is held through leases.
type Agent struct {
	name   string
	leases int // guarded by the registry's mutex

	queue   *queue
	done    chan struct{}   // closed when the goroutine has ended
	work    sync.WaitGroup  // goroutines of the agent but its own
	working context.Context //nolint:containedctx // the life of the goroutines in work
	cancel  context.CancelFunc
	log     atomic.Pointer[zap.Logger]

	// authorize adds credentials to the session's requests. It belongs to the
	// extension instance that was attached last, while the session outlives it.
	authorize atomic.Pointer[func(session.Request) (http.Header, error)]

	// signals holds what told the process to end.
	signals chan os.Signal

	// figures are what metrics are read from, and counters what sessions count.
	figures  atomic.Pointer[Metrics]
	counters session.Counters

	custom custom
	// pace is that of all attempts to reach the server, whatever session makes them.
	pace session.Pace

	// newest is the newest offer that the goroutine has not seen yet.
	newest atomic.Pointer[remoteconfig.Offer]
	// offeredSettings is the same for connection settings.
	offeredSettings atomic.Pointer[connsettings.Offer]

	// Everything below is owned by the agent's goroutine.

	store     *store    // nil without a folder
	storeErr  error     // why there is none, or why it cannot be written
	savedUID  uuid.UUID // found in a folder that cannot be used otherwise
	machine   *rollout.Machine
	dryRun    func(context.Context, preflight.Settings) preflight.Outcome
	timers    map[uint64]*time.Timer
	unsaved   *rollout.Record // what must be saved once it is possible
	saveError string
	retrying  bool            // the record will be saved again
	history   []happened      // what an operator is shown
	unknown   map[string]bool // requests of an operator that were said to be none
	stale     bool            // the state file is out of date
	deaf      bool            // requests of an operator are not looked at any more
	looked    looked          // at the requests
	began     time.Time       // when the process did

	checkedAt   time.Time // when the dry run of the latest offer began
	lastApplied time.Time
	applied     uint64 // offers that were, as counted last
	writeErrors uint64
	required    []string // extensions that a remote configuration cannot remove
	offers      map[string]remoteconfig.Offer
	scrubber    *scrub.Scrubber

	provider *ProviderLease // nil without a provider
	released bool           // the provider was shut down: the process ends in order
	told     os.Signal      // what the process was told to end with; nil if it was not
	original []string       // the arguments that this process replaces; nil if they are its own
	safe     bool           // this process runs nothing but the agent
	// supervised: another process decides what this one runs.
	supervised bool
	retrieved  time.Time      // when the host asked last
	pausing    bool           // a start is put off
	hostGone   bool           // the Collector's Run has returned or panicked
	fatal      string         // the FatalError because of which the Collector ends
	watch      *watch         // nil between two Retrieves
	serving    *served        // the answer to the Retrieve in progress
	latest     map[string]any // what the latest Retrieve was given
	running    map[string]any // what the attached instance was given

	extension *ExtensionLease // nil between two instances
	settings  ExtensionSettings
	session   *session.Session
	switching bool      // the former session is being stopped
	givenUID  uuid.UUID // by the server, in this process; zero if none was
	restarts  restarting

	connections connections
	snapshot    effectiveconfig.Snapshot
	instance    uint64 // the machine's instance that snapshot and running belong to
	ready       bool
	started     time.Time
	tree        *health.Tree
	lookAgain   bool // the health will be looked at again
	reported    session.State
}

// newAgent returns an agent that has not started. A nil dir is explained by
// dirErr.
func newAgent(name string, dir *statedir.Dir, dirErr error, log *zap.Logger) *Agent {
	a := &Agent{
		name:     name,
		queue:    newQueue(),
		signals:  make(chan os.Signal, 1),
		done:     make(chan struct{}),
		storeErr: dirErr,
		machine:  rollout.New(),
		dryRun:   preflight.Run,
		timers:   map[uint64]*time.Timer{},
		offers:   map[string]remoteconfig.Offer{},
		settings: ExtensionSettings{Rollout: DefaultRollout()},
		tree:     health.NewTree(),
		began:    time.Now(),
		custom:   custom{registry: custommessages.NewRegistry()},

		connections: connections{opamp: connsettings.NewSwitch()},
	}
	if dir != nil {
		a.store = &store{dir}
	}
	a.working, a.cancel = context.WithCancel(context.Background())
	a.log.Store(log)
	a.newScrubber()
	return a
}

// start runs the agent's goroutine.
func (a *Agent) start() {
	bootID := process.BootID()
	record, notes, err := a.store.load(bootID)
	switch {
	case err != nil:
		a.withoutFolder(err)
	case a.storeErr != nil && a.store != nil:
		a.log.Load().Error(folderReadOnly, zap.String("folder", a.store.dir.Path()), zap.Error(a.storeErr))
	}
	for _, note := range notes {
		a.log.Load().Warn("State folder", zap.String("note", note))
	}
	if handed := handedLadder(a.name); handed.Failures > record.Ladder.Failures {
		record.Ladder = handed // it could not be saved
	}
	a.loadConnections()
	a.required = a.store.required()
	if times, ok := a.store.times(); ok {
		a.settings.Rollout = times
	}
	booted := rollout.Booted{Record: record, BootID: bootID, SafeMode: a.safe, NoSafeMode: !canBeSafe(a.store, a.args()), Managed: a.managed()}
	if a.store != nil {
		booted.Evidence = a.crashes()
	}
	a.applied = record.Counts[rollout.OutcomeApplied]
	go a.run(booted)
	a.work.Go(a.carry)
}

// What is said once of a state folder that cannot be used, or only be read.
const (
	folderUnusable = "No remote configuration will be accepted and none that was is known: the state folder cannot be used"
	folderReadOnly = "No remote configuration will be accepted until the state folder can be written: what it holds is run"
)

// tryFolder looks from time to time whether the folder can be written again.
func (a *Agent) tryFolder() {
	a.after(folderLook, func() {
		if a.released || a.store == nil {
			return
		}
		if err := a.store.dir.Retry(); err != nil {
			a.tryFolder()
			return
		}
		a.log.Load().Info("The state folder can be written again: remote configuration is accepted", zap.String("folder", a.store.dir.Path()))
		a.storeErr = nil
		a.openToOperators()
		a.lookAtRequests()
		_ = a.persist(rollout.Persist{Record: a.machine.Record()}) // a failure is tried again
		a.restoreFiles()
		if a.extension == nil {
			return
		}
		a.saveExtension(a.settings)
		if c := &a.connections; c.unreadable != nil {
			c.unreadable = nil
			a.loadConnections()
			c.booted, c.switchBooted = false, false
			a.bootConnections()
		}
		if err := a.switchSession(); err != nil { // what the agent can do has changed
			a.log.Load().Error("No connection to the OpAMP server", zap.Error(err))
		}
		a.reportHealth(true)
	})
}

// withoutFolder goes on without a folder in which something cannot be read.
// Nothing is written to it: that would replace what may be read another time.
func (a *Agent) withoutFolder(err error) {
	a.log.Load().Error(folderUnusable, zap.String("folder", a.store.dir.Path()), zap.Error(err))
	if id, uidErr := a.store.savedUID(); uidErr == nil {
		a.savedUID = id
	}
	a.storeErr = errors.Join(err, a.store.dir.Close())
	a.store = nil
}

// crashes returns what the former process left of a crash, and records those of
// this one.
func (a *Agent) crashes() string {
	path := filepath.Join(a.store.dir.Path(), crashName)
	evidence, err := process.Crash(path)
	if err != nil {
		a.log.Load().Warn("A crash of the former process is not explained", zap.Error(err))
	}
	if err := process.RecordCrash(path); err != nil {
		a.log.Load().Warn("A crash of this process will not be explained to the next one", zap.Error(err))
	}
	return a.scrubber.Text(evidence)
}

func (a *Agent) run(booted rollout.Booted) {
	defer close(a.done)
	a.step(booted)
	for range a.queue.wake {
		for _, f := range a.queue.take() {
			f()
		}
		if a.queue.drained() {
			return
		}
	}
}

// call runs f on the agent's goroutine and waits for it.
func (a *Agent) call(ctx context.Context, f func()) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ran := make(chan struct{})
	if !a.queue.post(func() { f(); close(ran) }) {
		return errClosed
	}
	select {
	case <-ran:
		return nil
	case <-a.done:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the OpAMP agent: %w", ctx.Err())
	}
}

var errClosed = errors.New("the OpAMP agent is closed")

// close ends the agent: the session, the children, the goroutine, the folder.
func (a *Agent) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	a.cancel()
	var s *session.Session
	err := a.call(ctx, func() {
		for _, t := range a.timers {
			t.Stop()
		}
		s, a.session = a.session, nil
	})
	if err == nil && s != nil { // with an error, s may still be written
		err = s.Stop(ctx)
	}
	a.queue.close()
	finished := make(chan struct{})
	go func() {
		<-a.done
		a.work.Wait()
		close(finished)
	}()
	select {
	case <-finished:
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("waiting for the OpAMP agent to end: %w", ctx.Err()))
	}
	if a.store != nil {
		err = errors.Join(err, a.store.dir.Close())
	}
	return err
}

// newScrubber takes note of which variables texts must not show.
// and hides what the server gave for connections.
func (a *Agent) newScrubber(texts ...[]byte) {
	a.scrubber = scrub.New(environ(), texts...).Hiding(a.connections.served.Secrets()).Hiding(a.connections.checked.Secrets())
}

// remoteConfigOff returns why no remote configuration is accepted; empty if
// one is.
func (a *Agent) remoteConfigOff() string {
	switch {
	case a.supervised:
		return errSupervised.Error()
	case !a.settings.AcceptsRemoteConfig:
		return "accepts_remote_config is false"
	case a.provider == nil:
		return "no opamp: URI of this name is among --config"
	case a.storeErr != nil:
		return "the state folder cannot be used: " + a.storeErr.Error()
	default:
		return ""
	}
}
