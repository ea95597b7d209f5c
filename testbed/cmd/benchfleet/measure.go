package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

// options are the flags.
type options struct {
	binary, folder, profiles     string
	heartbeat, idle, trial, down time.Duration
	pushes                       int
	tls                          bool
}

const (
	// patience bounds the wait for a fleet to do something: the longest pause
	// between two attempts to connect is a minute.
	patience = 5 * time.Minute
	// look is the time between two looks at what the server has recorded, which
	// has the exact times.
	look = 50 * time.Millisecond
	// quiet is how long the agents have to say what they still have to say after
	// they connected, were given a configuration or came back.
	quiet = 3 * time.Second
	// restart is how long the server is away the first time: a fast restart.
	restart = 0
	// forget makes the server's record too small for a message, so that the memory
	// that is measured is that of connections.
	forget = 1
	// recordBytes holds what 10,000 agents say in one measurement.
	recordBytes = 1 << 30
)

// configuration is pushed to all agents; %d makes each one another.
const configuration = `receivers:
  otlp:
    protocols: {grpc: {endpoint: "127.0.0.1:4317"}, http: {endpoint: "127.0.0.1:4318"}}
  hostmetrics:
    collection_interval: 30s
    scrapers: {cpu: {}, memory: {}, disk: {}, filesystem: {}, network: {}}
processors:
  memory_limiter: {check_interval: 1s, limit_percentage: 80, spike_limit_percentage: 20}
  attributes: {actions: [{key: deployment.environment.name, value: production, action: upsert}, {key: change, value: "%d", action: upsert}]}
  batch: {timeout: 1s, send_batch_size: 8192}
exporters:
  otlp_grpc:
    endpoint: gateway.example.com:4317
    sending_queue: {enabled: true, queue_size: 10000}
    retry_on_failure: {enabled: true, max_elapsed_time: 300s}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [memory_limiter, attributes, batch], exporters: [otlp_grpc]}
    metrics: {receivers: [otlp, hostmetrics], processors: [memory_limiter, attributes, batch], exporters: [otlp_grpc]}
    logs: {receivers: [otlp], processors: [memory_limiter, attributes, batch], exporters: [otlp_grpc]}
`

// figures are what was measured with one number of agents. Sizes are in bytes, and
// per agent or connection where a name does not say otherwise.
type figures struct {
	Agents int
	// Load is the machine's load average before, and Took how long it took to
	// start all agents.
	Load string
	Took time.Duration

	AgentRSS, AgentHeap, AgentStacks, AgentGoroutines, AgentFiles float64
	ServerRSS, ServerHeap, ServerStacks, ServerGoroutines         float64

	// Of the idle agents: Beats is how many heartbeats came, BeatPeak the most in
	// one second during the last interval, the others are for each of them.
	Beats, BeatPeak                                    int
	BeatSent, BeatReceived, BeatMallocs, BeatAllocated float64
	BeatCPU, BeatServerCPU                             time.Duration

	// Of the push to all: from the begin of the push, over all pushes. The last is
	// the average over pushes of when the server had written the last offer.
	Applying, Applied, Written quantiles
	PushMessages, PushSent     float64
	PushCPU, PushServerCPU     time.Duration

	Restart, Outage storm
}

// quantiles of durations.
type quantiles struct{ P50, P99, Max time.Duration }

// storm is how agents came back.
type storm struct {
	// Peak100ms and PeakSecond are the most connections that were accepted within
	// such a time; Half, P99 and All are when so many agents had reported, from
	// when the server listened again.
	Peak100ms, PeakSecond int
	Half, P99, All        time.Duration
	// Of each agent that comes back: messages to the server, and bytes to it and
	// from it, with handshakes, until it is quiet again.
	Messages, Sent, Received float64
	// ServerCPU is what the server's process spent on each of them.
	ServerCPU time.Duration
}

// bench is one measurement.
type bench struct {
	options
	n      int
	server *opampserver.Server
	fleet  *fleet
	result figures
	// certificate is the server's, with -tls.
	certificate tls.Certificate
}

func measure(ctx context.Context, o options, n int) (_ figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*patience+o.idle+o.down)
	defer cancel()
	folder, err := os.MkdirTemp(o.folder, "benchfleet")
	if err != nil {
		return figures{}, fmt.Errorf("making a folder for the agents' state: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	b := &bench{options: o, n: n, result: figures{Agents: n, Load: load()}}
	var ca []byte
	if o.tls {
		if ca, err = b.certify(); err != nil {
			return figures{}, err
		}
	}
	if err := b.listen("", forget); err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, b.server.Stop(context.WithoutCancel(ctx))) }()
	b.fleet, err = startFleet(ctx, o.binary, fleetSettings{
		Endpoint: b.server.WSURL(), CA: ca, Agents: n, Folder: folder, Heartbeat: o.heartbeat, Trial: o.trial,
	})
	if err != nil {
		return figures{}, err
	}
	defer func() { err = errors.Join(err, b.fleet.stop()) }()
	for _, step := range []func(context.Context) error{b.memory, b.restart, b.beats, b.push, b.outage} {
		if err := step(ctx); err != nil {
			return figures{}, err
		}
	}
	return b.result, nil
}

// certify makes the server's certificate and returns that of its authority, in PEM.
func (b *bench) certify() ([]byte, error) {
	ca, err := testca.New("benchfleet")
	if err != nil {
		return nil, err
	}
	pair, err := ca.Server(testca.For(24 * time.Hour)) // no measurement takes as long
	if err != nil {
		return nil, err
	}
	b.certificate = pair.TLS()
	return ca.PEM(), nil
}

func (b *bench) listen(addr string, keep int) (err error) {
	set := opampserver.Settings{Addr: addr, KeepBytes: keep}
	if b.tls {
		set.TLS = &tls.Config{Certificates: []tls.Certificate{b.certificate}, MinVersion: tls.VersionTLS13}
	}
	b.server, err = opampserver.Start(set)
	return err
}

// memory starts the agents and compares both processes with what they were before.
func (b *bench) memory(ctx context.Context) error {
	before, err := b.fleet.do("count settled")
	if err != nil {
		return err
	}
	serverBefore := self()
	begin := time.Now()
	if _, err := b.fleet.do("start"); err != nil {
		return err
	}
	b.result.Took = time.Since(begin)
	if err := wait(ctx, quiet); err != nil {
		return err
	}
	after, err := b.fleet.do("count settled")
	if err != nil {
		return err
	}
	r, server := &b.result, self()
	if err := b.profileServer(); err != nil {
		return err
	}
	r.AgentRSS = b.each(after.RSS, before.RSS)
	r.AgentHeap = b.each(after.HeapLive, before.HeapLive)
	r.AgentStacks = b.each(after.Stacks, before.Stacks)
	r.AgentGoroutines = float64(after.Goroutines-before.Goroutines) / float64(b.n)
	r.AgentFiles = float64(after.Files-before.Files) / float64(b.n)
	r.ServerRSS = b.each(server.RSS, serverBefore.RSS)
	r.ServerHeap = b.each(server.HeapLive, serverBefore.HeapLive)
	r.ServerStacks = b.each(server.Stacks, serverBefore.Stacks)
	r.ServerGoroutines = float64(server.Goroutines-serverBefore.Goroutines) / float64(b.n)
	return nil
}

// restart ends the server and starts it again at once.
func (b *bench) restart(ctx context.Context) (err error) {
	b.result.Restart, err = b.again(ctx, restart)
	return err
}

// outage does the same after a while.
func (b *bench) outage(ctx context.Context) (err error) {
	b.result.Outage, err = b.again(ctx, b.down)
	return err
}

func (b *bench) again(ctx context.Context, down time.Duration) (storm, error) {
	addr := b.server.Addr()
	before, err := b.fleet.do("count")
	if err != nil {
		return storm{}, err
	}
	if err := b.server.Stop(ctx); err != nil {
		return storm{}, err
	}
	if err := wait(ctx, down); err != nil {
		return storm{}, err
	}
	if err := b.listen(addr, recordBytes); err != nil {
		return storm{}, err
	}
	begin, serverBefore := time.Now(), cpu()
	back := map[string]time.Time{}
	if err := b.follow(ctx, 0, "the agents are back", func(m opampserver.Message) bool {
		if _, known := back[m.UID]; m.Received != nil && !known {
			back[m.UID] = m.Time
		}
		return len(back) == b.n
	}); err != nil {
		return storm{}, fmt.Errorf("%w (%d of %d)", err, len(back), b.n)
	}
	if err := wait(ctx, quiet); err != nil {
		return storm{}, err
	}
	after, err := b.fleet.do("count")
	if err != nil {
		return storm{}, err
	}
	spent := cpu() - serverBefore
	messages := 0
	for _, m := range b.server.Messages() {
		if m.Received != nil {
			messages++
		}
	}
	var all []time.Duration
	for _, at := range back {
		all = append(all, at.Sub(begin))
	}
	slices.Sort(all)
	var accepted []time.Time
	for _, a := range b.server.Attempts() {
		accepted = append(accepted, a.Time)
	}
	return storm{
		Peak100ms: peak(accepted, 100*time.Millisecond), PeakSecond: peak(accepted, time.Second),
		Half: all[len(all)/2], P99: all[len(all)*99/100], All: all[len(all)-1],
		ServerCPU: spent / time.Duration(b.n),
		Messages:  float64(messages) / float64(b.n),
		Sent:      b.each(after.BytesSent, before.BytesSent),
		Received:  b.each(after.BytesReceived, before.BytesReceived),
	}, nil
}

// beats watches agents that have nothing to say.
func (b *bench) beats(ctx context.Context) error {
	if err := b.profile("begin"); err != nil {
		return err
	}
	mark := b.server.Mark()
	before, err := b.fleet.do("count")
	if err != nil {
		return err
	}
	serverBefore := cpu()
	if err := wait(ctx, b.idle); err != nil {
		return err
	}
	serverAfter := cpu()
	after, err := b.fleet.do("count")
	if err != nil {
		return err
	}
	var beaten []time.Time
	for _, m := range b.server.MessagesFrom(mark) {
		if m.Received != nil {
			b.result.Beats++
			if time.Since(m.Time) < b.heartbeat {
				beaten = append(beaten, m.Time)
			}
		}
	}
	b.result.BeatPeak = peak(beaten, time.Second)
	if err := b.profile("end"); err != nil {
		return err
	}
	if b.result.Beats == 0 {
		return errors.New("watching idle agents: no heartbeat came")
	}
	beats := float64(b.result.Beats)
	b.result.BeatSent = float64(after.BytesSent-before.BytesSent) / beats
	b.result.BeatReceived = float64(after.BytesReceived-before.BytesReceived) / beats
	b.result.BeatMallocs = float64(after.Mallocs-before.Mallocs) / beats
	b.result.BeatAllocated = float64(after.Allocated-before.Allocated) / beats
	b.result.BeatCPU = (after.CPU - before.CPU) / time.Duration(b.result.Beats)
	b.result.BeatServerCPU = (serverAfter - serverBefore) / time.Duration(b.result.Beats)
	return nil
}

// profile has profiles of the fleet written, if they are wanted.
func (b *bench) profile(when string) error {
	if b.profiles == "" {
		return nil
	}
	_, err := b.fleet.do("profile " + when + " " + b.profiles)
	return err
}

// profileServer has a profile of the server's memory written, if it is wanted.
func (b *bench) profileServer() error {
	if b.profiles == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(b.profiles, "server.pprof"))
	if err != nil {
		return fmt.Errorf("writing a profile of the server: %w", err)
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}

// push offers configurations to all agents, one after the other.
func (b *bench) push(ctx context.Context) error {
	if b.pushes == 0 {
		return nil
	}
	var applying, applied, written []time.Duration
	messages := 0
	before, err := b.fleet.do("count")
	if err != nil {
		return err
	}
	serverBefore := cpu()
	for change := range b.pushes {
		mark := b.server.Mark()
		begin := time.Now()
		hash := b.server.OfferToAll(opampserver.YAML(fmt.Sprintf(configuration, change)))
		left := b.n
		if err := b.follow(ctx, mark, "the configuration is applied", func(m opampserver.Message) bool {
			after := m.Time.Sub(begin)
			if bytes.Equal(m.Sent.GetRemoteConfig().GetConfigHash(), hash) {
				written = append(written, after)
			}
			if m.Received != nil {
				messages++
			}
			status := m.Received.GetRemoteConfigStatus()
			if bytes.Equal(status.GetLastRemoteConfigHash(), hash) {
				switch status.GetStatus() {
				case protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING:
					applying = append(applying, after)
				case protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED:
					applied = append(applied, after)
					left--
				case protobufs.RemoteConfigStatuses_RemoteConfigStatuses_UNSET, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED:
				}
			}
			return left == 0
		}); err != nil {
			return fmt.Errorf("%w (%d have not)", err, left)
		}
		if err := wait(ctx, quiet); err != nil {
			return err
		}
	}
	after, err := b.fleet.do("count")
	if err != nil {
		return err
	}
	changes := float64(b.pushes * b.n)
	b.result.Applying, b.result.Applied, b.result.Written = quantilesOf(applying), quantilesOf(applied), quantilesOf(written)
	b.result.PushMessages = float64(messages) / changes
	b.result.PushSent = float64(after.BytesSent-before.BytesSent) / changes
	b.result.PushCPU = (after.CPU - before.CPU) / time.Duration(b.pushes*b.n)
	b.result.PushServerCPU = (cpu() - serverBefore) / time.Duration(b.pushes*b.n)
	return nil
}

// follow shows done each message from an index on, once, until it returns true.
func (b *bench) follow(ctx context.Context, from int, what string, done func(opampserver.Message) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, m := range b.server.MessagesFrom(from) {
			from = m.Index + 1
			if done(m) {
				return nil
			}
		}
		if err := wait(ctx, look); err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
	}
}

// each is by how much something has grown, per agent.
func (b *bench) each(after, before uint64) float64 {
	return (float64(after) - float64(before)) / float64(b.n)
}

func quantilesOf(d []time.Duration) quantiles {
	if len(d) == 0 {
		return quantiles{}
	}
	slices.Sort(d)
	return quantiles{P50: d[len(d)/2], P99: d[len(d)*99/100], Max: d[len(d)-1]}
}

// peak returns the most of times within any period of a length.
func peak(times []time.Time, length time.Duration) (most int) {
	slices.SortFunc(times, time.Time.Compare)
	first := 0
	for last, at := range times {
		for at.Sub(times[first]) >= length {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// wait returns when the time has passed, or with an error when ctx has ended.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
