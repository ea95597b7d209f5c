package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	// maxWait bounds ?wait: longer than any rollout takes.
	maxWait = 10 * time.Minute

	defaultTimeline = 200
	maxTimeline     = 1000
)

// api answers the JSON requests.
type api struct {
	agents *opampserver.Server
}

func newMux(agents *opampserver.Server) http.Handler {
	mux := http.NewServeMux()
	a := api{agents: agents}
	mux.HandleFunc("GET /api/agents", a.list)
	mux.HandleFunc("GET /api/agents/{uid}", a.agent)
	mux.HandleFunc("PUT /api/agents/{uid}/config", a.offerOne)
	mux.HandleFunc("PUT /api/config", a.offerAll)
	mux.HandleFunc("PUT /api/agents/{uid}/connections", a.offerConnectionsOne)
	mux.HandleFunc("PUT /api/connections", a.offerConnectionsAll)
	mux.HandleFunc("GET /api/timeline", a.timeline)
	addPages(mux, agents)
	return mux
}

func (a api) list(w http.ResponseWriter, _ *http.Request) {
	views := []agentView{}
	for _, agent := range a.agents.Agents() {
		views = append(views, viewAgent(agent, false))
	}
	writeJSON(w, http.StatusOK, map[string]any{"agents": views})
}

func (a api) agent(w http.ResponseWriter, r *http.Request) {
	agent, ok := a.agents.Agent(r.PathValue("uid"))
	if !ok {
		writeError(w, http.StatusNotFound, fmt.Errorf("no agent %q is known", r.PathValue("uid")))
		return
	}
	writeJSON(w, http.StatusOK, viewAgent(agent, true))
}

// offerOne takes a configuration for one agent.
func (a api) offerOne(w http.ResponseWriter, r *http.Request) {
	uid := r.PathValue("uid")
	if _, ok := a.agents.Agent(uid); !ok {
		writeError(w, http.StatusNotFound, fmt.Errorf("no agent %q is known", uid))
		return
	}
	body, wait, ok := readPut(w, r)
	if !ok {
		return
	}
	hash := a.agents.Offer(uid, offerOf(body))
	if wait == 0 {
		agent, _ := a.agents.Agent(uid) // known above, and agents are never forgotten
		writeJSON(w, http.StatusOK, outcomeOf(agent, hash))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	result := waitOutcome(ctx, a.agents, uid, hash)
	writeJSON(w, outcomeStatus(result), result)
}

// offerAll takes a configuration for every agent, and waits for those that are
// connected and can take one.
func (a api) offerAll(w http.ResponseWriter, r *http.Request) {
	body, wait, ok := readPut(w, r)
	if !ok {
		return
	}
	hash := a.agents.OfferToAll(offerOf(body))
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	var waits sync.WaitGroup
	results := []outcome{}
	var mu sync.Mutex // guards results
	for _, agent := range a.agents.Agents() {
		if !acceptsConfig(agent) {
			continue
		}
		waits.Go(func() {
			result := outcomeOf(agent, hash)
			if wait > 0 {
				result = waitOutcome(ctx, a.agents, agent.UID, hash)
			}
			mu.Lock()
			defer mu.Unlock()
			results = append(results, result)
		})
	}
	waits.Wait()
	slices.SortFunc(results, func(a, b outcome) int { return cmp.Compare(a.UID, b.UID) })
	writeJSON(w, outcomeStatus(results...), map[string]any{"hash": hex.EncodeToString(hash), "agents": results})
}

// outcomeStatus is 200 once every agent has reported a result, whichever.
func outcomeStatus(results ...outcome) int {
	for _, r := range results {
		if r.TimedOut {
			return http.StatusGatewayTimeout
		}
	}
	return http.StatusOK
}

func (a api) timeline(w http.ResponseWriter, r *http.Request) {
	limit := defaultTimeline
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxTimeline {
			writeError(w, http.StatusBadRequest, fmt.Errorf("limit must be from 1 to %d", maxTimeline))
			return
		}
		limit = n
	}
	writeJSON(w, http.StatusOK, map[string]any{"messages": viewTimeline(a.agents, r.URL.Query().Get("uid"), limit)})
}

// readPut reads the configuration and the time to wait. When it returns false it
// has answered.
func readPut(w http.ResponseWriter, r *http.Request) (body []byte, wait time.Duration, ok bool) {
	if text := r.URL.Query().Get("wait"); text != "" {
		var err error
		wait, err = time.ParseDuration(text)
		if err != nil || wait <= 0 || wait > maxWait {
			writeError(w, http.StatusBadRequest, fmt.Errorf("wait must be a duration such as 30s, at most %s", maxWait))
			return nil, 0, false
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxConfigBytes))
	if err != nil {
		writeError(w, bodyStatus(err), fmt.Errorf("reading the configuration: %w", err))
		return nil, 0, false
	}
	return body, wait, true
}

// bodyStatus is the HTTP status for a body that could not be read.
func bodyStatus(err error) int {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may be gone
}
