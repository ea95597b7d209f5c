package opampserver

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

// RemoteConfigStatus is what an agent last reported on remote configuration.
type RemoteConfigStatus struct {
	Hash         []byte
	Status       protobufs.RemoteConfigStatuses
	ErrorMessage string
}

// Agent is a snapshot of what the server knows of an agent. It belongs to the
// caller; protobuf messages in it must not be modified.
type Agent struct {
	// UID is the instance UID as UUID text.
	UID string
	// Identifying and NonIdentifying are the attributes of the description.
	Identifying, NonIdentifying map[string]string
	Capabilities                protobufs.AgentCapabilities
	// Health is nil until the agent reported it.
	Health *protobufs.ComponentHealth
	// EffectiveConfig has the bodies by name; nil until reported.
	EffectiveConfig    map[string]string
	RemoteConfigStatus RemoteConfigStatus
	// ConnectionSettingsStatus, PackageStatuses and AvailableComponents are nil
	// until reported.
	ConnectionSettingsStatus *protobufs.ConnectionSettingsStatus
	PackageStatuses          *protobufs.PackageStatuses
	AvailableComponents      *protobufs.AvailableComponents
	CustomCapabilities       []string
	// Offered is the hash of the offer in force for this agent, nil when none.
	Offered []byte
	// Connected means: on WebSocket that the connection is open, on HTTP that the
	// agent has not announced its disconnect (see LastSeen).
	Connected bool
	// Transport is the transport of the last message.
	Transport Transport
	// LastSeen is the time of the last message.
	LastSeen time.Time
	// Connections counts the connections on which this agent was seen.
	Connections int
	// SequenceNum is the number of the last message.
	SequenceNum uint64
}

// agentState is guarded by Server.mu. Its sub-messages are replaced, never
// changed: snapshots may share them.
type agentState struct {
	uid      string
	raw      []byte // the instance UID, 16 bytes
	assigned string // the UID that the server has given out and not yet seen, or ""
	report   *protobufs.AgentToServer
	// flags are owed to the agent with the next normal answer.
	flags protobufs.ServerToAgentFlags
	// askedComponents is the hash for which the full list was asked: once, or an
	// agent without components would be asked for ever.
	askedComponents []byte
	// refused is owed to the agent as its next answer: a certificate request that
	// was not signed.
	refused *protobufs.ServerErrorResponse
	// queue holds raw messages for an HTTP agent, one for each coming answer.
	queue []*protobufs.ServerToAgent

	session     *session // live WebSocket connection, or nil
	httpConn    net.Conn // the connection of the last HTTP request, or nil
	connected   bool
	transport   Transport
	lastConn    int
	lastSeen    time.Time
	connections int
}

// Agents returns a snapshot of every known agent, sorted by UID.
func (s *Server) Agents() []Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	agents := make([]Agent, 0, len(s.agents))
	for _, a := range s.agents {
		agents = append(agents, s.snapshotLocked(a))
	}
	slices.SortFunc(agents, func(a, b Agent) int { return cmp.Compare(a.UID, b.UID) })
	return agents
}

// Agent returns a snapshot of one agent, and whether it is known.
func (s *Server) Agent(uid string) (Agent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.agents[uid]
	if !ok {
		return Agent{}, false
	}
	return s.snapshotLocked(a), true
}

// WaitAgent waits until an agent is connected and has described itself, and
// returns the one seen last.
func (s *Server) WaitAgent(ctx context.Context) (Agent, error) {
	return s.WaitFor(ctx, "", func(a Agent) bool { return a.Connected && a.Identifying != nil })
}

// WaitFor waits until match returns true for the agent, or for any agent when
// uid is empty, and returns the snapshot that matched. States that pass by
// between two looks are not seen: use WaitMessage or WaitStatus for those.
func (s *Server) WaitFor(ctx context.Context, uid string, match func(Agent) bool) (Agent, error) {
	var found *Agent
	err := s.await(ctx, func() bool {
		for _, a := range s.Agents() {
			if uid != "" && a.UID != uid || !match(a) {
				continue
			}
			if found == nil || a.LastSeen.After(found.LastSeen) {
				found = &a
			}
		}
		return found != nil
	})
	if err != nil {
		return Agent{}, fmt.Errorf("waiting for an agent: %w\n%s\n%s", err, s.describe(uid), s.Timeline(uid, errorTimeline))
	}
	return *found, nil
}

// WaitStatus waits until the agent's remote config status is the given one for
// the given hash: either it is so already, or the agent reports it after this
// call, however short. It returns the agent's snapshot right after.
func (s *Server) WaitStatus(ctx context.Context, uid string, hash []byte, status protobufs.RemoteConfigStatuses) (Agent, error) {
	next := s.Mark()
	is := func(h []byte, st protobufs.RemoteConfigStatuses) bool { return slices.Equal(h, hash) && st == status }
	var found Agent
	err := s.await(ctx, func() bool {
		a, known := s.Agent(uid)
		found = a
		if known && is(a.RemoteConfigStatus.Hash, a.RemoteConfigStatus.Status) {
			return true
		}
		for _, m := range s.MessagesFrom(next) {
			next = m.Index + 1
			r := m.Received.GetRemoteConfigStatus()
			if m.UID == uid && r != nil && is(r.GetLastRemoteConfigHash(), r.GetStatus()) {
				return true
			}
		}
		return false
	})
	if err != nil {
		return Agent{}, fmt.Errorf("waiting for agent %s to report %s for %s: %w\n%s\n%s",
			uid, statusName(status), shortHash(hash), err, s.describe(uid), s.Timeline(uid, errorTimeline))
	}
	return found, nil
}

// describe says in an error text what is known of the awaited agent.
func (s *Server) describe(uid string) string {
	if uid == "" {
		return fmt.Sprintf("known agents: %d", len(s.Agents()))
	}
	a, ok := s.Agent(uid)
	if !ok {
		return "agent " + uid + " is not known"
	}
	r := a.RemoteConfigStatus
	return fmt.Sprintf("agent %s: connected=%t, last seen %s, remote config %s %s %q",
		uid, a.Connected, sinceText(a.LastSeen), statusName(r.Status), shortHash(r.Hash), shorten(r.ErrorMessage))
}

func (s *Server) snapshotLocked(a *agentState) Agent {
	r := a.report
	snapshot := Agent{
		UID:            a.uid,
		Identifying:    attributeText(r.GetAgentDescription().GetIdentifyingAttributes()),
		NonIdentifying: attributeText(r.GetAgentDescription().GetNonIdentifyingAttributes()),
		Capabilities:   protobufs.AgentCapabilities(r.GetCapabilities()), //nolint:gosec // a bit mask of 16 bits
		RemoteConfigStatus: RemoteConfigStatus{
			Hash:         slices.Clone(r.GetRemoteConfigStatus().GetLastRemoteConfigHash()),
			Status:       r.GetRemoteConfigStatus().GetStatus(),
			ErrorMessage: r.GetRemoteConfigStatus().GetErrorMessage(),
		},
		ConnectionSettingsStatus: r.GetConnectionSettingsStatus(),
		PackageStatuses:          r.GetPackageStatuses(),
		AvailableComponents:      r.GetAvailableComponents(),
		CustomCapabilities:       slices.Clone(r.GetCustomCapabilities().GetCapabilities()),
		Connected:                a.connected,
		Transport:                a.transport,
		LastSeen:                 a.lastSeen,
		Connections:              a.connections,
		SequenceNum:              r.GetSequenceNum(),
	}
	if r.GetHealth() != nil {
		snapshot.Health = proto.Clone(r.GetHealth()).(*protobufs.ComponentHealth)
	}
	if r.GetEffectiveConfig() != nil {
		snapshot.EffectiveConfig = map[string]string{}
		for name, f := range r.GetEffectiveConfig().GetConfigMap().GetConfigMap() {
			snapshot.EffectiveConfig[name] = string(f.GetBody())
		}
	}
	if o, ok := s.offerLocked(a.uid); ok {
		snapshot.Offered = slices.Clone(o.Hash)
	}
	return snapshot
}

// uidText is the UUID text of an instance UID; anything that is not 16 bytes
// long is shown in hexadecimal.
func uidText(raw []byte) string {
	id, err := uuid.FromBytes(raw)
	if err != nil {
		return "invalid-" + hex.EncodeToString(raw)
	}
	return id.String()
}

// attributeText makes a map of attributes; nil when there are none.
func attributeText(attributes []*protobufs.KeyValue) map[string]string {
	if len(attributes) == 0 {
		return nil
	}
	texts := make(map[string]string, len(attributes))
	for _, kv := range attributes {
		texts[kv.GetKey()] = valueText(kv.GetValue())
	}
	return texts
}

func valueText(v *protobufs.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *protobufs.AnyValue_StringValue:
		return v.StringValue
	case *protobufs.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *protobufs.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *protobufs.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *protobufs.AnyValue_BytesValue:
		return hex.EncodeToString(v.BytesValue)
	case *protobufs.AnyValue_ArrayValue:
		texts := make([]string, 0, len(v.ArrayValue.GetValues()))
		for _, e := range v.ArrayValue.GetValues() {
			texts = append(texts, valueText(e))
		}
		return fmt.Sprint(texts)
	case *protobufs.AnyValue_KvlistValue:
		texts := attributeText(v.KvlistValue.GetValues())
		pairs := make([]string, 0, len(texts))
		for _, key := range slices.Sorted(maps.Keys(texts)) {
			pairs = append(pairs, key+"="+texts[key])
		}
		return fmt.Sprint(pairs)
	default:
		return ""
	}
}
