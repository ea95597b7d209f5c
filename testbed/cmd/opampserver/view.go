package main

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// agentView is an agent as the API and the page show it.
type agentView struct {
	UID              string            `json:"uid"`
	Connected        bool              `json:"connected"`
	Transport        string            `json:"transport"`
	LastSeen         time.Time         `json:"last_seen"`
	Connections      int               `json:"connections"`
	Identifying      map[string]string `json:"identifying_attributes"`
	NonIdentifying   map[string]string `json:"non_identifying_attributes"`
	Capabilities     []string          `json:"capabilities"`
	CustomCapability []string          `json:"custom_capabilities,omitempty"`
	Health           *healthView       `json:"health,omitempty"`
	RemoteConfig     statusView        `json:"remote_config_status"`
	OfferedHash      string            `json:"offered_hash,omitempty"`
	// ConnectionSettings is left out until the agent has reported on any.
	ConnectionSettings *statusView `json:"connection_settings_status,omitempty"`
	// EffectiveConfig is left out of lists.
	EffectiveConfig map[string]string `json:"effective_config,omitempty"`
}

// statusView is the remote config status.
type statusView struct {
	Hash         string `json:"hash"`
	Status       string `json:"status"`
	ErrorMessage string `json:"error_message,omitempty"`
}

// healthView is one node of the health tree. Components are sorted by name.
type healthView struct {
	Name       string        `json:"name,omitempty"`
	Healthy    bool          `json:"healthy"`
	Status     string        `json:"status,omitempty"`
	LastError  string        `json:"last_error,omitempty"`
	StartTime  *time.Time    `json:"start_time,omitempty"`
	StatusTime *time.Time    `json:"status_time,omitempty"`
	Components []*healthView `json:"components,omitempty"`
}

// messageView is one entry of the timeline.
type messageView struct {
	Index     int       `json:"index"`
	Time      time.Time `json:"time"`
	UID       string    `json:"uid"`
	Conn      int       `json:"connection"`
	Transport string    `json:"transport"`
	Direction string    `json:"direction"` // "received" or "sent"
	Summary   string    `json:"summary"`
}

func viewAgent(a opampserver.Agent, withConfig bool) agentView {
	v := agentView{
		UID:              a.UID,
		Connected:        a.Connected,
		Transport:        string(a.Transport),
		LastSeen:         a.LastSeen,
		Connections:      a.Connections,
		Identifying:      a.Identifying,
		NonIdentifying:   a.NonIdentifying,
		Capabilities:     capabilityNames(a.Capabilities),
		CustomCapability: a.CustomCapabilities,
		RemoteConfig: statusView{
			Hash:         hex.EncodeToString(a.RemoteConfigStatus.Hash),
			Status:       statusName(a.RemoteConfigStatus.Status),
			ErrorMessage: a.RemoteConfigStatus.ErrorMessage,
		},
		OfferedHash: hex.EncodeToString(a.Offered),
	}
	if c := a.ConnectionSettingsStatus; c != nil {
		v.ConnectionSettings = &statusView{
			Hash: hex.EncodeToString(c.GetLastConnectionSettingsHash()), Status: connectionStatusName(c.GetStatus()), ErrorMessage: c.GetErrorMessage(),
		}
	}
	if a.Health != nil {
		v.Health = viewHealth("", a.Health, maxHealthDepth)
	}
	if withConfig {
		v.EffectiveConfig = a.EffectiveConfig
	}
	return v
}

// maxHealthDepth cuts a tree that is deeper than any real one: agent, pipelines,
// components.
const maxHealthDepth = 16

func viewHealth(name string, h *protobufs.ComponentHealth, depth int) *healthView {
	v := &healthView{
		Name:       name,
		Healthy:    h.GetHealthy(),
		Status:     h.GetStatus(),
		LastError:  h.GetLastError(),
		StartTime:  timeOf(h.GetStartTimeUnixNano()),
		StatusTime: timeOf(h.GetStatusTimeUnixNano()),
	}
	if depth == 0 {
		return v
	}
	parts := h.GetComponentHealthMap()
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		v.Components = append(v.Components, viewHealth(part, parts[part], depth-1))
	}
	return v
}

// timeOf is nil for 0, which means that the time is not known.
func timeOf(nanoseconds uint64) *time.Time {
	if nanoseconds == 0 {
		return nil
	}
	return new(time.Unix(0, int64(nanoseconds)).UTC()) //nolint:gosec // wraps in the year 2262
}

func viewMessage(m opampserver.Message) messageView {
	direction := "sent"
	if m.Received != nil {
		direction = "received"
	}
	return messageView{
		Index: m.Index, Time: m.Time, UID: m.UID, Conn: m.Conn,
		Transport: string(m.Transport), Direction: direction, Summary: m.Summary(),
	}
}

// viewTimeline returns the last messages, of one agent unless uid is empty.
func viewTimeline(agents *opampserver.Server, uid string, limit int) []messageView {
	views := []messageView{} // an empty list in JSON, not null
	for _, m := range slices.Backward(agents.Messages()) {
		if uid != "" && m.UID != uid {
			continue
		}
		if len(views) == limit {
			break
		}
		views = append(views, viewMessage(m))
	}
	slices.Reverse(views)
	return views
}

// capabilityNames lists the set bits, lowest first.
func capabilityNames(capabilities protobufs.AgentCapabilities) []string {
	names := []string{}
	for bit := protobufs.AgentCapabilities(1); bit > 0 && bit <= capabilities; bit <<= 1 {
		if capabilities&bit != 0 {
			names = append(names, strings.TrimPrefix(bit.String(), "AgentCapabilities_"))
		}
	}
	return names
}
