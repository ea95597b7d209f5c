package opampextension

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
)

// observe makes the agent's figures readable as metrics of this generation's
// telemetry, until the builder is shut down.
func observe(b *metadata.TelemetryBuilder, lease *agent.ExtensionLease) error {
	number := func(value func(agent.Metrics) (n int64, known bool)) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			if n, known := value(lease.Metrics()); known {
				o.Observe(n)
			}
			return nil
		}
	}
	count := func(value func(agent.Metrics) uint64) metric.Int64Callback {
		return number(func(m agent.Metrics) (int64, bool) { return int64(value(m)), true }) //nolint:gosec // no count comes near
	}
	for _, register := range []func() error{
		func() error {
			return b.RegisterOpampConnectedCallback(number(func(m agent.Metrics) (int64, bool) { return m.Session.Connected.Load(), true }))
		},
		func() error {
			return b.RegisterOpampConnectionsCallback(count(func(m agent.Metrics) uint64 { return m.Session.Connections.Load() }))
		},
		func() error {
			return b.RegisterOpampStateWriteErrorsCallback(count(func(m agent.Metrics) uint64 { return m.WriteErrors }))
		},
		func() error {
			return b.RegisterOpampFailedStartsCallback(number(func(m agent.Metrics) (int64, bool) { return int64(m.FailedStarts), true }))
		},
		func() error {
			return b.RegisterOpampConfigLastApplySuccessfulCallback(number(func(m agent.Metrics) (int64, bool) {
				if m.Applied {
					return 1, true
				}
				return 0, m.Received != ""
			}))
		},
		func() error {
			return b.RegisterOpampConfigLastApplySuccessTimestampCallback(func(_ context.Context, o metric.Float64Observer) error {
				if at := lease.Metrics().LastApplied; !at.IsZero() {
					o.Observe(float64(at.UnixMilli()) / 1000)
				}
				return nil
			})
		},
		func() error {
			return b.RegisterOpampConnectionSettingsSuccessfulCallback(number(func(m agent.Metrics) (int64, bool) {
				if m.SettingsApplied {
					return 1, true
				}
				return 0, m.SettingsReceived
			}))
		},
		func() error {
			return b.RegisterOpampConnectionSwitchesCallback(func(_ context.Context, o metric.Int64Observer) error {
				m := lease.Metrics()
				o.Observe(int64(m.Switched), metric.WithAttributes(attribute.String("result", "applied")))    //nolint:gosec // no count comes near
				o.Observe(int64(m.SwitchedBack), metric.WithAttributes(attribute.String("result", "failed"))) //nolint:gosec // no count comes near
				return nil
			})
		},
		func() error {
			return b.RegisterOpampCertificateExpiryTimestampCallback(func(_ context.Context, o metric.Float64Observer) error {
				if at := lease.Metrics().CertificateExpiry; !at.IsZero() {
					o.Observe(float64(at.UnixMilli()) / 1000)
				}
				return nil
			})
		},
		func() error { return b.RegisterOpampIoCallback(directions(lease, bytesOf)) },
		func() error { return b.RegisterOpampMessagesCallback(directions(lease, messagesOf)) },
		func() error { return b.RegisterOpampCustomMessagesDroppedCallback(directions(lease, droppedOf)) },
		func() error {
			return b.RegisterOpampOffersCallback(func(_ context.Context, o metric.Int64Observer) error {
				for outcome, n := range lease.Metrics().Outcomes {
					what, why, _ := strings.Cut(string(outcome), ": ")
					o.Observe(int64(n), metric.WithAttributes(attribute.String("outcome", what), attribute.String("reason", why))) //nolint:gosec // no count comes near
				}
				return nil
			})
		},
		func() error {
			return b.RegisterOpampRungCallback(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(1, metric.WithAttributes(attribute.String("rung", string(lease.Metrics().Rung))))
				return nil
			})
		},
		func() error {
			return b.RegisterOpampConfigInfoCallback(func(_ context.Context, o metric.Int64Observer) error {
				m := lease.Metrics()
				// Two series at a time, of 16 digits: a new hash ends the former
				// series.
				for role, hash := range map[string]string{"running": m.Running.Hash, "received": m.Received} {
					if role == "received" && hash == "" {
						continue // nothing came yet
					}
					o.Observe(1, metric.WithAttributes(attribute.String("role", role), attribute.String("hash", hash[:min(len(hash), 16)])))
				}
				return nil
			})
		},
	} {
		if err := register(); err != nil {
			return err
		}
	}
	return nil
}

func bytesOf(m agent.Metrics) (sent, received uint64) {
	return m.Session.BytesSent.Load(), m.Session.BytesReceived.Load()
}

func messagesOf(m agent.Metrics) (sent, received uint64) {
	return m.Session.MessagesSent.Load(), m.Session.MessagesReceived.Load()
}

func droppedOf(m agent.Metrics) (sent, received uint64) {
	return m.CustomMessagesDropped.Sent.Load(), m.CustomMessagesDropped.Received.Load()
}

func directions(lease *agent.ExtensionLease, value func(agent.Metrics) (sent, received uint64)) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		sent, received := value(lease.Metrics())
		o.Observe(int64(sent), metric.WithAttributes(attribute.String("direction", "sent")))         //nolint:gosec // no count comes near
		o.Observe(int64(received), metric.WithAttributes(attribute.String("direction", "received"))) //nolint:gosec // no count comes near
		return nil
	}
}
