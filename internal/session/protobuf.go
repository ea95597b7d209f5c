package session

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/scrub"
)

func (c Capabilities) protobuf() protobufs.AgentCapabilities {
	capabilities := protobufs.AgentCapabilities_AgentCapabilities_ReportsStatus
	for _, bit := range []struct {
		on  bool
		bit protobufs.AgentCapabilities
	}{
		{c.EffectiveConfig, protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig},
		{c.Health, protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth},
		{c.AvailableComponents, protobufs.AgentCapabilities_AgentCapabilities_ReportsAvailableComponents},
		{c.Heartbeat, protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat},
		{c.RemoteConfig, protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig},
		{c.RemoteConfig, protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig},
		{c.Restart, protobufs.AgentCapabilities_AgentCapabilities_AcceptsRestartCommand},
		{c.OpAMPSettings, protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings},
		{c.OtherSettings, protobufs.AgentCapabilities_AgentCapabilities_AcceptsOtherConnectionSettings},
		{c.OwnMetrics, protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnMetrics},
		{c.OwnTraces, protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnTraces},
		{c.OwnLogs, protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnLogs},
		{c.connectionSettings(), protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus},
	} {
		if bit.on {
			capabilities |= bit.bit
		}
	}
	return capabilities
}

func (s RemoteConfigStatus) protobuf() *protobufs.RemoteConfigStatus {
	if s.State == Unset {
		return nil // the server sends its configuration
	}
	states := map[RemoteConfigState]protobufs.RemoteConfigStatuses{
		Applying: protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING,
		Applied:  protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED,
		Failed:   protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED,
	}
	hash := s.Hash
	if hash == nil {
		hash = []byte{} // opamp-go takes nil for an error
	}
	return &protobufs.RemoteConfigStatus{LastRemoteConfigHash: hash, Status: states[s.State], ErrorMessage: utf8(s.Message)}
}

func (d Description) protobuf() *protobufs.AgentDescription {
	return &protobufs.AgentDescription{
		IdentifyingAttributes:    keyValues(d.Identifying),
		NonIdentifyingAttributes: keyValues(d.NonIdentifying),
	}
}

// keyValues returns the attributes sorted by key, so that equal descriptions
// are equal on the wire.
func keyValues(attributes map[string]any) []*protobufs.KeyValue {
	var out []*protobufs.KeyValue
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		out = append(out, &protobufs.KeyValue{Key: utf8(key), Value: anyValue(attributes[key])})
	}
	return out
}

func anyValue(value any) *protobufs.AnyValue {
	switch v := value.(type) {
	case string:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: utf8(v)}}
	case bool:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_BoolValue{BoolValue: v}}
	case int64:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_IntValue{IntValue: v}}
	case float64:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_DoubleValue{DoubleValue: v}}
	case []byte:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_BytesValue{BytesValue: v}}
	case []any:
		list := &protobufs.ArrayValue{}
		for _, x := range v {
			list.Values = append(list.Values, anyValue(x))
		}
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_ArrayValue{ArrayValue: list}}
	case map[string]any:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_KvlistValue{KvlistValue: &protobufs.KeyValueList{Values: keyValues(v)}}}
	default:
		return &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: utf8(fmt.Sprint(v))}}
	}
}

func (c Components) protobuf() *protobufs.AvailableComponents {
	hash := sha256.New()
	kinds := make(map[string]*protobufs.ComponentDetails, len(c))
	for _, kind := range slices.Sorted(maps.Keys(c)) {
		types := make(map[string]*protobufs.ComponentDetails, len(c[kind]))
		for _, name := range slices.Sorted(maps.Keys(c[kind])) {
			module := c[kind][name]
			_, _ = hash.Write(fmt.Appendf(nil, "%q %q %q\n", kind, name, module))
			types[name] = &protobufs.ComponentDetails{Metadata: keyValues(map[string]any{"code.namespace": module})}
		}
		kinds[kind] = &protobufs.ComponentDetails{SubComponentMap: types}
	}
	return &protobufs.AvailableComponents{Components: kinds, Hash: hash.Sum(nil)}
}

func protobufHealth(n health.Node) *protobufs.ComponentHealth {
	h := &protobufs.ComponentHealth{
		Healthy:            n.Healthy,
		StartTimeUnixNano:  nanos(n.Started),
		LastError:          utf8(n.LastError),
		Status:             utf8(n.Status),
		StatusTimeUnixNano: nanos(n.Changed),
	}
	for name, part := range n.Parts {
		if h.ComponentHealthMap == nil {
			h.ComponentHealthMap = make(map[string]*protobufs.ComponentHealth, len(n.Parts))
		}
		h.ComponentHealthMap[utf8(name)] = protobufHealth(part)
	}
	return h
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// maxValue is how long a text in a report may be, in bytes: long against any
// attribute or error that people read.
const maxValue = 8 << 10

// utf8 returns s as valid UTF-8, and cut if it is too long: opamp-go drops a whole
// message for one bad byte, or for being too large.
func utf8(s string) string { return scrub.Cut(strings.ToValidUTF8(s, "�"), maxValue) }

// maxConfig is how much of an effective configuration is reported, in bytes:
// half of a message, so that the rest of the report has room.
const maxConfig = maxMessage / 2

// trimConfig cuts a configuration that is too large, at a line's end, and marks
// that it did.
func trimConfig(yaml []byte) []byte {
	if len(yaml) <= maxConfig {
		return yaml
	}
	mark := fmt.Appendf(nil, "# trimmed: the configuration has %d bytes, of which a report takes %d\n", len(yaml), maxConfig)
	end := bytes.LastIndexByte(yaml[:maxConfig-len(mark)], '\n') + 1
	return append(slices.Clone(yaml[:end]), mark...)
}

// maxHealth is the size of a health report, in bytes: a quarter of a message. A
// Collector with a thousand components, all of them in error, has a tenth of it.
const maxHealth = maxMessage / 4

// trimHealth leaves out of a report that is too large what is least: the texts of
// components, then the components.
func trimHealth(h *protobufs.ComponentHealth) *protobufs.ComponentHealth {
	if proto.Size(h) <= maxHealth {
		return h
	}
	h.Status += "; trimmed"
	for _, part := range h.ComponentHealthMap {
		for _, component := range part.ComponentHealthMap {
			component.LastError = scrub.Cut(component.LastError, 64)
		}
	}
	if proto.Size(h) <= maxHealth {
		return h
	}
	for _, part := range h.ComponentHealthMap {
		part.ComponentHealthMap = nil
	}
	if proto.Size(h) > maxHealth {
		h.ComponentHealthMap = nil
	}
	return h
}
