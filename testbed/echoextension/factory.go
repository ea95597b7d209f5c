// Package echoextension is an extension of type `echo` for test builds of the
// Collector. It sends every custom message of the OpAMP server back, and numbered
// messages of its own, so that a test can tell whether any was lost.
package echoextension

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampcustommessages"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
)

// Types of the messages that the extension sends.
const (
	// TypeEcho is a message of the server, sent back.
	TypeEcho = "echo"
	// TypeCount is "<generation> <n>": the n-th, from 0, that this instance sent
	// by itself. The generation is the time of its Start, in nanoseconds.
	TypeCount = "count"
	// TypeEnd is "<generation> <n>": the instance sent n of them and ends.
	TypeEnd = "end"
)

// queued is how many messages wait for the extension at most: many more than
// arrive while it is kept from reading on a busy machine.
const queued = 1000

// endTime bounds how long Shutdown waits for room for the last messages.
const endTime = 10 * time.Second

// Config is the configuration.
type Config struct {
	// OpAMP is the ID of the OpAMP extension.
	OpAMP component.ID `mapstructure:"opamp"`
	// Capability is what the messages belong to.
	Capability string `mapstructure:"capability"`
	// Interval is the time between two messages of its own; none if 0.
	Interval time.Duration `mapstructure:"interval"`
}

// NewFactory creates the factory.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("echo"),
		func() component.Config {
			return &Config{OpAMP: component.MustNewID("opamp"), Capability: "com.example.echo"}
		},
		create,
		component.StabilityLevelDevelopment,
	)
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	c, ok := cfg.(*Config)
	if !ok {
		return nil, fmt.Errorf("creating extension %q: unexpected configuration %T", set.ID, cfg)
	}
	return &echoExtension{cfg: c}, nil
}

type echoExtension struct {
	cfg     *Config
	handler opampcustommessages.CustomCapabilityHandler
	stop    context.CancelFunc
	work    sync.WaitGroup
}

var (
	_ extension.Extension             = (*echoExtension)(nil)
	_ extensioncapabilities.Dependent = (*echoExtension)(nil)
)

// Dependencies implements extensioncapabilities.Dependent.
func (e *echoExtension) Dependencies() []component.ID { return []component.ID{e.cfg.OpAMP} }

// Start implements component.Component.
func (e *echoExtension) Start(_ context.Context, host component.Host) error {
	registry, ok := host.GetExtensions()[e.cfg.OpAMP].(opampcustommessages.CustomCapabilityRegistry)
	if !ok {
		return fmt.Errorf("extension %q takes no custom messages", e.cfg.OpAMP)
	}
	var err error
	e.handler, err = registry.Register(e.cfg.Capability, opampcustommessages.WithMaxQueuedMessages(queued))
	if err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	var ctx context.Context
	ctx, e.stop = context.WithCancel(context.Background())
	e.work.Go(func() { e.echo(ctx) })
	e.work.Go(func() { e.count(ctx) })
	return nil
}

// Shutdown implements component.Component.
func (e *echoExtension) Shutdown(context.Context) error {
	if e.stop == nil {
		return nil
	}
	e.stop()
	e.work.Wait()
	e.handler.Unregister()
	return nil
}

func (e *echoExtension) echo(ctx context.Context) {
	for {
		select {
		case m := <-e.handler.Message():
			e.send(TypeEcho, m.GetData())
		case <-ctx.Done():
			return
		}
	}
}

func (e *echoExtension) count(ctx context.Context) {
	if e.cfg.Interval == 0 {
		return
	}
	generation := time.Now().UnixNano()
	ticker := time.NewTicker(e.cfg.Interval)
	defer ticker.Stop()
	n := 0
	for {
		select {
		case <-ticker.C:
			if e.send(TypeCount, fmt.Appendf(nil, "%d %d", generation, n)) {
				n++
			}
		case <-ctx.Done():
			e.send(TypeEnd, fmt.Appendf(nil, "%d %d", generation, n))
			return
		}
	}
}

// send waits for room in the queue and reports whether the message was accepted.
func (e *echoExtension) send(kind string, data []byte) bool {
	end := time.NewTimer(endTime)
	defer end.Stop()
	for {
		room, err := e.handler.SendMessage(kind, data)
		if !errors.Is(err, types.ErrCustomMessagePending) {
			return err == nil
		}
		select {
		case <-room:
		case <-end.C:
			return false
		}
	}
}
