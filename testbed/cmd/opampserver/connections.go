package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// takesConnections are the capabilities of agents that can be expected to report on
// connection settings.
const takesConnections = protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus

// offerConnectionsOne takes connection settings for one agent.
func (a api) offerConnectionsOne(w http.ResponseWriter, r *http.Request) {
	uid := r.PathValue("uid")
	if _, ok := a.agents.Agent(uid); !ok {
		writeError(w, http.StatusNotFound, fmt.Errorf("no agent %q is known", uid))
		return
	}
	offer, wait, ok := readConnections(w, r)
	if !ok {
		return
	}
	hash := a.agents.OfferConnections(uid, offer)
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	result := a.connectionsOutcome(ctx, uid, hash, wait > 0)
	writeJSON(w, outcomeStatus(result), result)
}

// offerConnectionsAll takes connection settings for every agent, also for those that
// have an offer of their own, and waits for those that are connected and report on
// them.
func (a api) offerConnectionsAll(w http.ResponseWriter, r *http.Request) {
	offer, wait, ok := readConnections(w, r)
	if !ok {
		return
	}
	for _, agent := range a.agents.Agents() {
		a.agents.WithdrawConnections(agent.UID)
	}
	hash := a.agents.OfferConnections("", offer)
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	var waits sync.WaitGroup
	results := []outcome{}
	var mu sync.Mutex // guards results
	for _, agent := range a.agents.Agents() {
		if !agent.Connected || agent.Capabilities&takesConnections == 0 {
			continue
		}
		waits.Go(func() {
			result := a.connectionsOutcome(ctx, agent.UID, hash, wait > 0)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, result)
		})
	}
	waits.Wait()
	slices.SortFunc(results, func(a, b outcome) int { return cmp.Compare(a.UID, b.UID) })
	writeJSON(w, outcomeStatus(results...), map[string]any{"hash": hex.EncodeToString(hash), "agents": results})
}

// readConnections reads an offer and the time to wait. When it returns false it has
// answered.
func readConnections(w http.ResponseWriter, r *http.Request) (*protobufs.ConnectionSettingsOffers, time.Duration, bool) {
	body, wait, ok := readPut(w, r)
	if !ok {
		return nil, 0, false
	}
	offer, err := opampserver.ParseConnections(body)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return nil, 0, false
	}
	return offer, wait, true
}

// connectionsOutcome reads off what the agent has reported on connection settings,
// if wanted after it has reported APPLIED or FAILED for the hash. An agent that is
// given another server may report there, and is waited for in vain here.
func (a api) connectionsOutcome(ctx context.Context, uid string, hash []byte, wait bool) outcome {
	var err error
	if wait {
		_, err = a.agents.WaitFor(ctx, uid, func(agent opampserver.Agent) bool {
			c := agent.ConnectionSettingsStatus
			return bytes.Equal(c.GetLastConnectionSettingsHash(), hash) && isFinalConnection(c.GetStatus())
		})
	}
	agent, _ := a.agents.Agent(uid) // known, and agents are never forgotten
	o := outcome{UID: uid, Hash: hex.EncodeToString(hash), Connected: agent.Connected, TimedOut: err != nil}
	o.Status = connectionStatusName(protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_UNSET)
	if c := agent.ConnectionSettingsStatus; bytes.Equal(c.GetLastConnectionSettingsHash(), hash) {
		o.Status, o.ErrorMessage = connectionStatusName(c.GetStatus()), c.GetErrorMessage()
	}
	return o
}

func isFinalConnection(s protobufs.ConnectionSettingsStatuses) bool {
	return s == protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED ||
		s == protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED
}

func connectionStatusName(s protobufs.ConnectionSettingsStatuses) string {
	return strings.TrimPrefix(s.String(), "ConnectionSettingsStatuses_")
}
