package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// What an operator of this machine finds and leaves in the state folder
// (RFC 0004).
const (
	stateName     = "state.json"
	requestsName  = "requests"
	requestBack   = requestsName + "/go-back"
	requestForget = requestsName + "/clear-rejected"
	requestClear  = requestsName + "/clear-connection"

	// requestLook is the time between two looks at the requests: soon enough for
	// somebody who waits for it, and rare enough to cost nothing.
	requestLook = 2 * time.Second
	// requestSure is the time after which the requests are looked at although their
	// folder's time says that there is nothing new: not every file system keeps it,
	// and clocks are set.
	requestSure = time.Minute
	// maxHistory is how many events the state file holds: some weeks of an agent
	// that gets a new configuration every day.
	maxHistory = 100
)

// stateFile is what an operator is shown. Fields are added, never renamed.
type stateFile struct {
	Agent         string              `json:"agent"`
	PID           int                 `json:"pid"`
	Started       time.Time           `json:"started"`
	State         rollout.State       `json:"state"`
	Rung          rollout.Rung        `json:"rung"`
	SafeMode      bool                `json:"safe_mode"`
	Running       remoteconfig.Ref    `json:"running"`
	LastKnownGood remoteconfig.Ref    `json:"last_known_good"`
	Earlier       []remoteconfig.Ref  `json:"earlier"`
	Candidate     *rollout.Candidate  `json:"candidate"`
	Rejected      []rollout.Rejection `json:"rejected"`
	Status        rollout.Status      `json:"status"`
	// ConnectionSettings is what the server was told of the newest offer of them.
	ConnectionSettings settingsShown `json:"connection_settings"`
	FailedStarts       int           `json:"failed_starts"`
	// History is what happened, the latest last.
	History []happened `json:"history"`
}

// settingsShown is the status of an offer of connection settings.
type settingsShown struct {
	Hash    string `json:"hash"`
	State   string `json:"state"` // empty if there was none
	Message string `json:"message,omitempty"`
}

// happened is one entry of the history.
type happened struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Config string    `json:"config,omitempty"` // the server's hash
	Reason string    `json:"reason,omitempty"`
}

// looked is the latest look at all requests, and the time of their folder then; zero
// if the next look must be one.
type looked struct{ modified, at time.Time }

// note adds an entry to the history.
func (a *Agent) note(what string, ref remoteconfig.Ref, reason string) {
	a.history = append(a.history, happened{At: time.Now(), What: what, Config: ref.Hash, Reason: reason})
	a.history = a.history[max(0, len(a.history)-maxHistory):]
	a.stale = true
}

// showState writes the state file if it is out of date.
func (a *Agent) showState() {
	if !a.stale || a.storeErr != nil || a.provider == nil {
		return
	}
	a.stale = false
	r := a.machine.Record()
	rung, _ := a.machine.Rung()
	data, err := json.MarshalIndent(stateFile{
		Agent: ownID(a.name), PID: os.Getpid(), Started: a.began, State: a.machine.State(), Rung: rung, SafeMode: a.safe,
		Running: a.machine.Running(), LastKnownGood: r.LastKnownGood, Earlier: r.Earlier, Candidate: r.Candidate,
		Rejected: r.Rejected, Status: r.Status, FailedStarts: r.Ladder.Failures, History: a.history,
		ConnectionSettings: a.shownSettings(),
	}, "", "  ")
	if err == nil {
		err = a.store.dir.WriteText(stateName, append(data, '\n'))
	}
	if err != nil {
		a.log.Load().Warn("Writing what an operator is shown", zap.Error(err))
	}
}

func (a *Agent) shownSettings() settingsShown {
	s := a.settingsStatus()
	states := map[session.RemoteConfigState]rollout.StatusState{
		session.Applying: rollout.StatusApplying, session.Applied: rollout.StatusApplied, session.Failed: rollout.StatusFailed,
	}
	return settingsShown{Hash: hex.EncodeToString(s.Hash), State: string(states[s.State]), Message: s.Message}
}

// openToOperators reads the history of former processes and makes the folder for
// requests.
func (a *Agent) openToOperators() {
	if a.storeErr != nil {
		return
	}
	var former stateFile
	if data, err := a.store.dir.ReadText(stateName); err == nil && json.Unmarshal(data, &former) == nil {
		a.history = append(former.History, a.history...) // what this start found comes last
		a.lastApplied = lastAppliedIn(a.history)
	}
	a.note("process started", remoteconfig.Ref{}, "")
	if err := a.store.dir.MakeFolder(requestsName); err != nil {
		a.log.Load().Warn("Requests of an operator will not be seen", zap.Error(err))
	}
	a.showState()
}

// lookAtRequests does what an operator asked for, and looks again later.
func (a *Agent) lookAtRequests() {
	if a.storeErr != nil || a.released || a.deaf {
		return
	}
	defer a.after(requestLook, a.lookAtRequests)
	modified, err := a.store.dir.Modified(requestsName)
	if err == nil && modified.Equal(a.looked.modified) && time.Since(a.looked.at) < requestSure {
		return // most looks end here
	}
	a.looked = looked{}
	if a.machine.AtRest() {
		a.request(requestForget, func(string) error {
			a.step(rollout.Forgiven{})
			return nil
		})
	}
	a.request(requestClear, func(string) error {
		if c := &a.connections; c.unreadable != nil {
			return c.unreadable
		} else if c.record.Hash == "" && c.record.Switch == (connsettings.SwitchRecord{}) {
			return errors.New("the server has offered nothing for the OpAMP connection")
		}
		a.forgetConnection("an operator of this machine wants the local settings")
		return nil
	})
	if a.machine.AtRest() {
		a.request(requestBack, func(hash string) error {
			to, err := a.earlier(hash)
			if err != nil {
				return err
			}
			a.step(rollout.GoneBack{To: to})
			return nil
		})
	}
	a.lookAtUnknownRequests()
	// A request that is made right after a look may leave a folder with the same
	// time: the clocks of file systems tick in milliseconds, some in seconds.
	if err == nil && a.machine.AtRest() && time.Since(modified) > requestLook {
		a.looked = looked{modified: modified, at: time.Now()}
	}
}

// lookAtUnknownRequests says once of each file among the requests that it is none.
// Hidden ones are left alone: that is how editors name what is not finished.
func (a *Agent) lookAtUnknownRequests() {
	names, err := a.store.dir.List(requestsName)
	if err != nil {
		return // a request that cannot be looked at is told
	}
	known := []string{requestBack, requestForget, requestClear}
	unknown := map[string]bool{}
	for _, name := range names {
		name = requestsName + "/" + name
		if slices.Contains(known, name) || strings.HasPrefix(name, requestsName+"/.") {
			continue
		}
		unknown[name] = true
		if a.unknown[name] {
			continue
		}
		reason := "there is no such request; those that there are: " + strings.Join(known, ", ")
		a.note("refused: operator's request "+name, remoteconfig.Ref{}, reason)
		a.log.Load().Error("An operator's request is not known, and the file stays; remove it",
			zap.String("request", name), zap.Strings("known", known))
	}
	a.unknown = unknown // one that is gone is told again if it comes again
	a.showState()
}

// request does one request, if it was made. It is removed first, so that it is
// never done twice.
func (a *Agent) request(name string, do func(text string) error) {
	data, err := a.store.dir.ReadText(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if removeErr := a.store.dir.Remove(name); removeErr != nil {
		a.deaf = true
		err = errors.Join(err, fmt.Errorf("%w; no request is looked at any more in this process", removeErr))
	}
	if err == nil {
		a.note("operator's request "+name, remoteconfig.Ref{}, "")
		a.log.Load().Info("Doing what an operator asked for", zap.String("request", name))
		err = do(strings.TrimSpace(string(data)))
	}
	if err != nil {
		a.note("refused: operator's request "+name, remoteconfig.Ref{}, err.Error())
		a.log.Load().Error("An operator's request cannot be done", zap.String("request", name), zap.Error(err))
	}
	a.showState()
}

// earlier returns the earlier known good whose hash begins as given; the newest
// if none is given.
func (a *Agent) earlier(hash string) (remoteconfig.Ref, error) {
	earlier := a.machine.Record().Earlier
	for _, ref := range earlier {
		if strings.HasPrefix(ref.Hash, hash) {
			return ref, nil
		}
	}
	if hash == "" {
		return remoteconfig.Ref{}, errors.New("there is no earlier configuration that was known to be good")
	}
	return remoteconfig.Ref{}, fmt.Errorf("no earlier configuration has a hash that begins with %q: see %q in %s", hash, "earlier", stateName)
}
