package main

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// maxConfigBytes bounds a configuration: the limit that agents have by default.
const maxConfigBytes = 4 << 20

// outcome is what came of an offer to one agent.
type outcome struct {
	UID          string `json:"uid"`
	Hash         string `json:"hash"`
	Connected    bool   `json:"connected"`
	Status       string `json:"status"` // of this hash; UNSET until the agent has reported it
	ErrorMessage string `json:"error_message,omitempty"`
	// TimedOut means that the wait ended before APPLIED or FAILED.
	TimedOut bool `json:"timed_out,omitempty"`
}

// offerOf makes an offer of a YAML text. An empty text is the empty remote
// configuration: the agent's local configuration alone.
func offerOf(body []byte) opampserver.Offer {
	if strings.TrimSpace(string(body)) == "" {
		return opampserver.Offer{}
	}
	return opampserver.YAML(string(body))
}

// outcomeOf reads the outcome off a snapshot.
func outcomeOf(a opampserver.Agent, hash []byte) outcome {
	o := outcome{UID: a.UID, Hash: hex.EncodeToString(hash), Connected: a.Connected}
	o.Status = statusName(protobufs.RemoteConfigStatuses_RemoteConfigStatuses_UNSET)
	if slices.Equal(a.RemoteConfigStatus.Hash, hash) {
		o.Status = statusName(a.RemoteConfigStatus.Status)
		o.ErrorMessage = a.RemoteConfigStatus.ErrorMessage
	}
	return o
}

// waitOutcome waits until the agent has reported APPLIED or FAILED for the hash,
// or ctx has ended.
func waitOutcome(ctx context.Context, agents *opampserver.Server, uid string, hash []byte) outcome {
	a, err := agents.WaitFor(ctx, uid, func(a opampserver.Agent) bool {
		return slices.Equal(a.RemoteConfigStatus.Hash, hash) && isFinal(a.RemoteConfigStatus.Status)
	})
	if err != nil {
		a, _ = agents.Agent(uid)
		o := outcomeOf(a, hash)
		o.TimedOut = true
		return o
	}
	return outcomeOf(a, hash)
}

func isFinal(s protobufs.RemoteConfigStatuses) bool {
	return s == protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED ||
		s == protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED
}

// acceptsConfig reports whether the agent can be expected to react to an offer.
func acceptsConfig(a opampserver.Agent) bool {
	return a.Connected && a.Capabilities&protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig != 0
}

func statusName(s protobufs.RemoteConfigStatuses) string {
	return strings.TrimPrefix(s.String(), "RemoteConfigStatuses_")
}
