package opampserver

import (
	"bytes"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

// uidBytes is the length of an instance UID that the specification demands.
const uidBytes = 16

// reportLocked merges a report into the state of its agent, as a server must
// because unchanged parts are left out, and notes what has to be asked for. It
// returns nil when the instance UID is not valid.
func (s *Server) reportLocked(sess *session, uid string, msg *protobufs.AgentToServer) *agentState {
	if len(msg.GetInstanceUid()) != uidBytes {
		return nil
	}
	a := s.findLocked(uid, msg)
	known := a.report != nil
	previous := a.report
	if known && msg.GetSequenceNum() == 0 {
		// A new process, or a new client in it: what the earlier one said is void.
		known, previous, a.askedComponents = false, nil, nil
	}
	lost := known && previous.GetSequenceNum()+1 != msg.GetSequenceNum()
	merged, omitted := mergeReports(previous, msg)
	if !known && msg.GetAgentDescription() == nil || lost && omitted {
		a.flags |= protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState
	}
	components := merged.GetAvailableComponents()
	if len(components.GetHash()) > 0 && len(components.GetComponents()) == 0 &&
		!bytes.Equal(components.GetHash(), a.askedComponents) {
		a.askedComponents = components.GetHash()
		a.flags |= protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportAvailableComponents
	}
	a.report = merged
	a.transport = sess.transport
	a.lastSeen = time.Now()
	if sess.number != a.lastConn {
		a.lastConn = sess.number
		a.connections++
	}
	a.connected = msg.GetAgentDisconnect() == nil
	a.session, a.httpConn = nil, nil
	switch {
	case !a.connected:
	case sess.transport == WebSocket:
		a.session = sess
	default:
		a.httpConn = sess.link.conn
	}
	return a
}

// findLocked returns the state for uid, creating it, or renaming the one to
// which this UID was given.
func (s *Server) findLocked(uid string, msg *protobufs.AgentToServer) *agentState {
	if a, ok := s.agents[uid]; ok {
		return a
	}
	for old, a := range s.agents {
		if a.assigned != uid {
			continue
		}
		delete(s.agents, old)
		a.uid, a.raw, a.assigned = uid, bytes.Clone(msg.GetInstanceUid()), ""
		if o, ok := s.offers[old]; ok {
			s.offers[uid] = o
			delete(s.offers, old)
		}
		if o, ok := s.connections[old]; ok {
			s.connections[uid] = o
			delete(s.connections, old)
		}
		s.agents[uid] = a
		return a
	}
	a := &agentState{uid: uid, raw: bytes.Clone(msg.GetInstanceUid())}
	s.agents[uid] = a
	return a
}

// mergeReports completes msg with the parts of previous that it leaves out, and
// says whether there were any. Neither argument is modified.
func mergeReports(previous, msg *protobufs.AgentToServer) (merged *protobufs.AgentToServer, omitted bool) {
	merged = &protobufs.AgentToServer{
		InstanceUid:              msg.GetInstanceUid(),
		SequenceNum:              msg.GetSequenceNum(),
		Capabilities:             msg.GetCapabilities(),
		AgentDescription:         keep(msg.GetAgentDescription(), previous.GetAgentDescription(), &omitted),
		Health:                   keep(msg.GetHealth(), previous.GetHealth(), &omitted),
		EffectiveConfig:          keep(msg.GetEffectiveConfig(), previous.GetEffectiveConfig(), &omitted),
		RemoteConfigStatus:       keep(msg.GetRemoteConfigStatus(), previous.GetRemoteConfigStatus(), &omitted),
		PackageStatuses:          keep(msg.GetPackageStatuses(), previous.GetPackageStatuses(), &omitted),
		CustomCapabilities:       keep(msg.GetCustomCapabilities(), previous.GetCustomCapabilities(), &omitted),
		ConnectionSettingsStatus: keep(msg.GetConnectionSettingsStatus(), previous.GetConnectionSettingsStatus(), &omitted),
		AvailableComponents:      keep(msg.GetAvailableComponents(), previous.GetAvailableComponents(), &omitted),
	}
	// A report with the hash alone does not withdraw the components of that hash.
	now, before := msg.GetAvailableComponents(), previous.GetAvailableComponents()
	if now != nil && len(now.GetComponents()) == 0 && bytes.Equal(now.GetHash(), before.GetHash()) {
		merged.AvailableComponents = before
	}
	return merged, omitted
}

// keep returns the reported part, or the earlier one when it was left out.
func keep[T any](reported, earlier *T, omitted *bool) *T {
	if reported != nil || earlier == nil {
		return reported
	}
	*omitted = true
	return earlier
}

// answerLocked makes the answer to a report: a raw message that is queued for an
// HTTP agent, else flags, identification and the offer.
func (s *Server) answerLocked(sess *session, a *agentState, msg *protobufs.AgentToServer) *protobufs.ServerToAgent {
	if a == nil {
		return &protobufs.ServerToAgent{
			InstanceUid: msg.GetInstanceUid(),
			ErrorResponse: &protobufs.ServerErrorResponse{
				Type:         protobufs.ServerErrorResponseType_ServerErrorResponseType_BadRequest,
				ErrorMessage: "instance_uid must be 16 bytes long",
			},
		}
	}
	if a.refused != nil {
		// An error response is a message of its own.
		answer := &protobufs.ServerToAgent{InstanceUid: msg.GetInstanceUid(), ErrorResponse: a.refused}
		a.refused = nil
		return answer
	}
	if len(a.queue) > 0 && msg.GetAgentDisconnect() == nil {
		raw := a.queue[0]
		a.queue = a.queue[1:]
		return raw
	}
	answer := &protobufs.ServerToAgent{
		InstanceUid:  msg.GetInstanceUid(),
		Capabilities: uint64(s.settings.Capabilities), //nolint:gosec // a bit mask, never negative
		Flags:        uint64(a.flags),                 //nolint:gosec // as above
	}
	a.flags = 0
	if !sess.answered {
		sess.answered = true
		// The library adds the same to HTTP answers after they are recorded.
		answer.CustomCapabilities = &protobufs.CustomCapabilities{Capabilities: s.settings.CustomCapabilities}
	}
	if msg.GetFlags()&uint64(protobufs.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid) != 0 {
		id := uuid.Must(uuid.NewV7()) // fails only without a source of randomness
		a.assigned = id.String()
		answer.AgentIdentification = &protobufs.AgentIdentification{NewInstanceUid: id[:]}
	}
	if o, ok := s.dueLocked(a); ok {
		answer.RemoteConfig = o.RemoteConfig()
	}
	if o := s.connectionsDueLocked(a); o != nil {
		answer.ConnectionSettings = o
	} else if o := s.connectionsLocked(a.uid); o != nil && s.repeating && !sess.link.repeated {
		answer.ConnectionSettings = o
	}
	sess.link.repeated = true
	return answer
}

// dueLocked returns the offer that the agent should be sent: it accepts remote
// configuration and has not reported the hash as the last one received.
func (s *Server) dueLocked(a *agentState) (Offer, bool) {
	o, ok := s.offerLocked(a.uid)
	if !ok || a.report == nil {
		return Offer{}, false
	}
	accepts := a.report.GetCapabilities()&uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig) != 0
	has := bytes.Equal(a.report.GetRemoteConfigStatus().GetLastRemoteConfigHash(), o.Hash)
	return o, accepts && !has
}

// pushLocked puts a message into the outbox of the agent's WebSocket connection
// and returns the session to flush.
func pushLocked(a *agentState, msg *protobufs.ServerToAgent) *session {
	if len(msg.GetInstanceUid()) == 0 {
		msg = proto.Clone(msg).(*protobufs.ServerToAgent)
		msg.InstanceUid = a.raw
	}
	a.session.outbox = append(a.session.outbox, outgoing{uid: a.uid, msg: msg})
	return a.session
}
