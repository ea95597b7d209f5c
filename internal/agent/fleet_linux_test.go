package agent_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pipeline"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

const (
	// fleetEnv holds a fleetSettings in JSON and makes this test binary a fleet
	// of agents, which testbed/cmd/benchfleet measures. It is a test because it
	// replaces the dry run, which nothing else may do.
	fleetEnv = "OTELCOL_OPAMP_FLEET"
	// fleetStarting is how many agents are started at a time: they wait for the
	// disk most of the time.
	fleetStarting = 16
	// fleetTick is the time between two looks at whether all are connected.
	fleetTick = 20 * time.Millisecond
)

type fleetSettings struct {
	Endpoint  string
	CA        []byte // of the server's certificate, in PEM; none without TLS
	Agents    int
	Folder    string // for the agents' state
	Heartbeat time.Duration
	Trial     time.Duration
}

// fleetFigures are those of the whole process; sizes are in bytes.
type fleetFigures struct {
	Goroutines, Files                            int
	HeapLive, HeapInUse, Stacks, Runtime, RSS    uint64
	Mallocs, Allocated, BytesSent, BytesReceived uint64
	CPU                                          time.Duration
}

// fleetHost plays a Collector that reloads at once when it is told to, with one
// pipeline that is always healthy.
type fleetHost struct {
	set     fleetSettings
	name    string
	stop    chan struct{}
	ready   func(*agent.ExtensionLease) // called once, at the first Ready
	isReady bool
}

func (h *fleetHost) settings() agent.ExtensionSettings {
	rollout := agent.DefaultRollout()
	rollout.TrialPeriod = h.set.Trial
	var config *tls.Config
	if len(h.set.CA) > 0 {
		config = &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AppendCertsFromPEM(h.set.CA)
	}
	return agent.ExtensionSettings{
		ID:       "opamp/" + h.name,
		Requires: []string{"opamp/" + h.name},
		Session: session.Settings{
			Transport:         session.WebSocket,
			Endpoint:          h.set.Endpoint,
			TLS:               config,
			HeartbeatInterval: h.set.Heartbeat,
			Capabilities: session.Capabilities{
				EffectiveConfig: true, Health: true, AvailableComponents: true, Heartbeat: true, RemoteConfig: true,
			},
		},
		SameSession: h.set.Endpoint,
		Components:  fleetComponents,
		Describe: func(id uuid.UUID) session.Description {
			return session.Description{
				Identifying: map[string]any{"service.name": "otelcol-opamp", "service.version": "0.158.0", "service.instance.id": id.String()},
				NonIdentifying: map[string]any{
					"os.type": "linux", "host.arch": "amd64", "host.name": "collector-" + h.name + ".example.com",
					"os.description": "Debian GNU/Linux 13 (trixie)",
				},
			}
		},
		AcceptsRemoteConfig: true,
		Rollout:             rollout,
		View:                effectiveconfig.References,
		Log:                 fleetLog,
	}
}

// fleetLog drops what a Collector would write to its log.
var fleetLog = zap.NewNop()

// fleetComponents has as many components as the distribution, about.
var fleetComponents = func() session.Components {
	components := session.Components{}
	for kind, count := range map[string]int{"receivers": 40, "processors": 20, "exporters": 25, "extensions": 20, "connectors": 8} {
		components[kind] = map[string]string{}
		for i := range count {
			module := fmt.Sprintf("%s/component%d", kind, i)
			components[kind][module] = "github.com/open-telemetry/opentelemetry-collector-contrib/" + module + " v0.158.0"
		}
	}
	return components
}()

// run is Collector.Run.
func (h *fleetHost) run() error {
	ctx := context.Background()
	provider, err := agent.AcquireProvider(ctx, h.name, filepath.Join(h.set.Folder, h.name), fleetLog)
	if err != nil {
		return err
	}
	provider.SetDryRun(func(context.Context, preflight.Settings) preflight.Outcome { return preflight.Outcome{} })
	reload := make(chan struct{}, 1) // one slot, as the resolver's
	settings := h.settings()
	for {
		retrieved, err := provider.Retrieve(ctx, false, func() { reload <- struct{}{} })
		if err != nil {
			return err
		}
		e, err := agent.AcquireExtension(ctx, h.name, settings)
		if err != nil {
			return err
		}
		effective := map[string]any{"extensions": map[string]any{settings.ID: map[string]any{
			"server": map[string]any{"ws": map[string]any{"endpoint": h.set.Endpoint}},
		}}}
		maps.Copy(effective, retrieved.Conf)
		e.NotifyConfig(effectiveconfig.Snapshot{Effective: effective, Unexpanded: effective})
		fleetStatus(e, componentstatus.StatusStarting, componentstatus.StatusOK)
		e.Ready()
		if !h.isReady {
			h.isReady = true
			h.ready(e)
		}
		select {
		case <-reload:
			e.NotReady()
			fleetStatus(e, componentstatus.StatusStopping, componentstatus.StatusStopped)
			if err := errors.Join(e.Release(ctx), retrieved.Done(ctx)); err != nil {
				return err
			}
		case <-h.stop:
			err := errors.Join(retrieved.Done(ctx), provider.Release(ctx))
			e.NotReady()
			return errors.Join(err, e.Release(ctx))
		}
	}
}

// fleetStatus tells what the components of a small pipeline go through.
func fleetStatus(e *agent.ExtensionLease, states ...componentstatus.Status) {
	for id, kind := range map[string]component.Kind{
		"otlp": component.KindReceiver, "batch": component.KindProcessor, "otlp_grpc": component.KindExporter,
	} {
		source := componentstatus.NewInstanceID(component.MustNewID(id), kind, pipeline.NewID(pipeline.SignalTraces))
		for _, state := range states {
			e.ComponentStatus(source, componentstatus.NewEvent(state))
		}
	}
}

// fleet is a number of agents in this process.
type fleet struct {
	set     fleetSettings
	stop    chan struct{}
	running sync.WaitGroup
	failed  chan error // one slot

	mu     sync.Mutex // guards leases
	leases []*agent.ExtensionLease
}

// start returns when all agents are connected.
func (f *fleet) start() error {
	slots := make(chan struct{}, fleetStarting)
	for i := range f.set.Agents {
		slots <- struct{}{}
		h := &fleetHost{set: f.set, name: strconv.Itoa(i), stop: f.stop, ready: func(e *agent.ExtensionLease) {
			f.mu.Lock()
			f.leases = append(f.leases, e) // whose figures are the agent's, and outlive it
			f.mu.Unlock()
			<-slots
		}}
		f.running.Go(func() {
			if err := h.run(); err != nil {
				select {
				case f.failed <- fmt.Errorf("agent %s: %w", h.name, err):
				default: // one is enough
				}
			}
		})
	}
	ticker := time.NewTicker(fleetTick)
	defer ticker.Stop()
	for range ticker.C {
		select {
		case err := <-f.failed:
			return err
		default:
		}
		if f.connected() == f.set.Agents {
			return nil
		}
	}
	panic("unreachable")
}

func (f *fleet) connected() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.leases {
		n += int(e.Metrics().Session.Connected.Load())
	}
	return n
}

// count takes the figures; settled means after a collection of garbage.
func (f *fleet) count(settled bool) fleetFigures {
	if settled {
		runtime.GC()
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	figures := fleetFigures{
		Goroutines: runtime.NumGoroutine(),
		HeapLive:   m.HeapAlloc, HeapInUse: m.HeapInuse, Stacks: m.StackInuse, Runtime: m.Sys - m.HeapReleased,
		Mallocs: m.Mallocs, Allocated: m.TotalAlloc,
	}
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		figures.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	if status, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(status)); len(fields) > 1 {
			pages, _ := strconv.ParseUint(fields[1], 10, 64) // the kernel wrote it
			figures.RSS = pages * uint64(os.Getpagesize())
		}
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		figures.Files = len(files)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.leases {
		c := e.Metrics().Session
		figures.BytesSent += c.BytesSent.Load()
		figures.BytesReceived += c.BytesReceived.Load()
	}
	return figures
}

// TestFleet runs the agents of testbed/cmd/benchfleet, and does what that says on
// the standard input, a word per line; each is answered by a line of JSON.
func TestFleet(t *testing.T) {
	text := os.Getenv(fleetEnv)
	if text == "" {
		t.Skip("is run by testbed/cmd/benchfleet")
	}
	f := &fleet{stop: make(chan struct{}), failed: make(chan error, 1)}
	require.NoError(t, json.Unmarshal([]byte(text), &f.set))
	answers := json.NewEncoder(os.Stdout)
	t.Cleanup(func() {
		close(f.stop)
		f.running.Wait()
		select {
		case err := <-f.failed:
			require.NoError(t, err)
		default:
		}
	})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() { // until the other side has ended, however
		word, argument, _ := strings.Cut(commands.Text(), " ")
		switch word {
		case "start":
			require.NoError(t, f.start())
			require.NoError(t, answers.Encode(f.count(false)))
		case "count":
			require.NoError(t, answers.Encode(f.count(argument == "settled")))
		case "profile":
			when, folder, _ := strings.Cut(argument, " ")
			require.NoError(t, fleetProfile(when, folder))
			require.NoError(t, answers.Encode(f.count(false)))
		default:
			t.Fatalf("unknown command %q", word)
		}
	}
	require.NoError(t, commands.Err())
}

// fleetProfile writes profiles of the process into a folder: of the memory at the
// begin and at the end of a period, and of the processor in between.
func fleetProfile(when, folder string) error {
	if when == "end" {
		pprof.StopCPUProfile()
	}
	runtime.GC() // the profile of the heap is as of the last collection
	for _, name := range []string{"allocs", "goroutine"} {
		f, err := os.Create(filepath.Join(folder, name+"-"+when+".pprof"))
		if err != nil {
			return err
		}
		if err := errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close()); err != nil {
			return err
		}
	}
	if when == "end" {
		return nil
	}
	f, err := os.Create(filepath.Join(folder, "cpu.pprof"))
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f) // which closes nothing: the process ends soon
}
