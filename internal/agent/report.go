package agent

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pipeline"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// callbacks are called by the client; they post and return.
func (a *Agent) callbacks(transport session.Transport, attempt uint64) session.Callbacks {
	var connected atomic.Bool // to log changes only; HTTP connects with every request
	var before atomic.Bool    // there was a connection in this session
	var told atomic.Value     // the text of the latest failure since there was a connection, a string
	told.Store("")
	var answered atomic.Bool
	return session.Callbacks{
		Connected: func() {
			if before.Swap(true) && transport != session.HTTP {
				// The client leaves health out of the first message of a later
				// connection, perhaps to a server that knows nothing of it.
				a.queue.post(func() { a.reportHealth(true) })
			}
			told.Store("")
			if !connected.Swap(true) {
				a.log.Load().Info("Connected to the OpAMP server")
				a.log.Load().Debug("Connected to the OpAMP server") // contrib's supervisor waits for this line at this level
			}
		},
		Answered: func() {
			if !answered.Swap(true) { // what works once is not tried again in this session
				a.queue.post(func() { a.heard(attempt) })
			}
		},
		Settings: a.takeSettings,
		ConnectFailed: func(err error) {
			a.queue.post(func() { a.unheard(attempt, err) })
			again := told.Swap(err.Error()) == err.Error()
			switch {
			case connected.Swap(false):
				a.log.Load().Warn("The connection to the OpAMP server is lost; trying again", zap.Error(err))
			case again:
				a.log.Load().Debug("No connection to the OpAMP server; trying again", zap.Error(err))
			default:
				a.log.Load().Warn("No connection to the OpAMP server; trying again", zap.Error(err))
			}
		},
		ServerError: func(kind, message string) {
			a.log.Load().Error("OpAMP server returned an error response", zap.String("type", kind), zap.String("message", message))
		},
		Restart:    func() { a.queue.post(a.restartCommanded) },
		Identified: func(uid [16]byte) { a.queue.post(func() { a.identified(uid) }) },
		Offered: func(offer remoteconfig.Offer) {
			if a.newest.Swap(&offer) == nil {
				a.queue.post(a.offered)
			}
		},
		CustomMessage: a.deliver,
	}
}

// afterStep follows up on what a step may have changed.
func (a *Agent) afterStep() {
	if instance := a.machine.Instance(); instance != a.instance && a.extension != nil && a.ready {
		// The host exchanged receivers in place: no new instance was started
		// and no new configuration handed out.
		a.instance = instance
		a.snapshot = a.snapshot.ReplaceReceivers(a.running, a.latest)
		a.running = a.latest
		a.customReady()
		a.reportEffective()
		a.reportHealth(true)
	}
}

// describe reports the description, if it changed.
func (a *Agent) describe() {
	uid, err := a.uid()
	if err != nil {
		return // said when the session was started
	}
	d := a.settings.Describe(uid)
	if reflect.DeepEqual(d, a.reported.Description) {
		return
	}
	a.reported.Description = d
	a.warn("Reporting the agent description", a.session.SetDescription(d))
}

func (a *Agent) warn(doing string, err error) {
	if err != nil {
		a.log.Load().Warn(doing, zap.Error(err))
	}
}

// reportStatus tells the server about the remote configuration.
func (a *Agent) reportStatus(s rollout.Status) {
	a.reported.RemoteConfig = status(s)
	if a.session != nil && a.remoteConfigOff() == "" {
		a.warn("Reporting the status of the remote configuration", a.session.SetRemoteConfigStatus(a.reported.RemoteConfig))
	}
	a.reportHealth(false)
}

func status(s rollout.Status) session.RemoteConfigStatus {
	states := map[rollout.StatusState]session.RemoteConfigState{
		rollout.StatusUnset:    session.Unset,
		rollout.StatusApplying: session.Applying,
		rollout.StatusApplied:  session.Applied,
		rollout.StatusFailed:   session.Failed,
	}
	hash, err := hex.DecodeString(s.Hash)
	if err != nil {
		return session.RemoteConfigStatus{} // only a record edited by hand has such a hash
	}
	return session.RemoteConfigStatus{Hash: hash, State: states[s.State], Message: s.Message}
}

// reportEffective reports the configuration that runs, if it changed.
func (a *Agent) reportEffective() {
	if !a.settings.Session.Capabilities.EffectiveConfig || a.snapshot.Effective == nil {
		return
	}
	yaml, err := a.snapshot.YAML(a.settings.View)
	if err != nil {
		a.warn("Reporting the effective configuration", err)
		return
	}
	a.newScrubberFor(yaml)
	if bytes.Equal(yaml, a.reported.EffectiveConfig) {
		return
	}
	a.reported.EffectiveConfig = yaml
	if a.session != nil {
		ctx, cancel := sessionContext()
		defer cancel()
		a.warn("Reporting the effective configuration", a.session.SetEffectiveConfig(ctx, yaml))
	}
}

// newScrubberFor also hides the variables that the running configuration
// refers to, not only those of the candidate.
func (a *Agent) newScrubberFor(yaml []byte) {
	texts := [][]byte{yaml}
	for _, offer := range a.offers {
		for _, f := range offer.Files() {
			texts = append(texts, f.Body)
		}
	}
	a.newScrubber(texts...)
}

// reportHealth reports the health, if it changed or always is set. While the
// service is being exchanged nothing is reported: the outcome will be.
func (a *Agent) reportHealth(always bool) {
	if !a.settings.Session.Capabilities.Health || !a.ready {
		return
	}
	h := a.healthNode()
	if !always && reflect.DeepEqual(h, a.reported.Health) {
		return
	}
	a.reported.Health = h
	if a.session != nil {
		a.warn("Reporting health", a.session.SetHealth(h))
	}
}

func (a *Agent) healthNode() health.Node {
	if !a.ready {
		return health.Node{Status: "StatusStarting"}
	}
	now := time.Now()
	tree, again := a.tree.Root(a.started, now)
	if !again.IsZero() && !a.lookAgain {
		a.lookAgain = true
		a.after(again.Sub(now), func() {
			a.lookAgain = false
			a.reportHealth(false)
		})
	}
	root := a.scrubHealth(tree)
	var notes []string
	if root.Healthy && !a.hasPipelines() {
		notes = append(notes, "waiting for configuration")
	}
	if r := a.machine.Record(); r.Status.State == rollout.StatusFailed {
		running, ref := a.machine.Rung()
		note := fmt.Sprintf("remote configuration %s failed; running %s", remoteconfig.Ref{Hash: r.Status.Hash}, running)
		if running == rollout.RungLastKnownGood || running == rollout.RungEarlier {
			note += " " + ref.String()
		}
		notes = append(notes, note)
	}
	if l := a.machine.Record().Ladder; l.Failures > 0 {
		notes = append(notes, fmt.Sprintf("the last %d starts failed: %s", l.Failures, l.Reason))
	}
	if a.safe {
		root.Healthy = false
		root.LastError = "safe mode: nothing but the OpAMP agent runs, waiting for a configuration or a local repair"
	}
	if a.provider != nil && a.storeErr != nil && !a.supervised {
		notes = append(notes, a.remoteConfigOff())
	}
	if a.saveError != "" {
		notes = append(notes, "the state of the rollout could not be saved: "+a.saveError)
	}
	if s := a.settingsStatus(); s.State == session.Failed {
		notes = append(notes, fmt.Sprintf("connection settings %s failed", short(hex.EncodeToString(s.Hash))))
	}
	if len(notes) > 0 {
		root.Status += "; " + a.scrubber.Text(strings.Join(notes, "; "))
	}
	return root
}

func (a *Agent) scrubHealth(n health.Node) health.Node {
	n.LastError = a.scrubber.Text(n.LastError)
	for name, part := range n.Parts {
		n.Parts[name] = a.scrubHealth(part)
	}
	return n
}

func (a *Agent) hasPipelines() bool {
	service, _ := a.snapshot.Effective["service"].(map[string]any)
	pipelines, _ := service["pipelines"].(map[string]any)
	return len(pipelines) > 0
}

// componentKey identifies a component over generations: adding it to one more
// pipeline makes it no other component. Each signal has instances of its own.
func componentKey(source *componentstatus.InstanceID) string {
	signals := map[string]bool{}
	source.AllPipelineIDs(func(id pipeline.ID) bool {
		signals[id.Signal().String()] = true
		return true
	})
	return strings.ToLower(source.Kind().String()) + ":" + source.ComponentID().String() + " " + strings.Join(slices.Sorted(maps.Keys(signals)), ",")
}

// componentName names an instance for people.
func componentName(source *componentstatus.InstanceID) string {
	name := strings.ToLower(source.Kind().String()) + " " + source.ComponentID().String()
	var in []string
	source.AllPipelineIDs(func(id pipeline.ID) bool {
		in = append(in, id.String())
		return true
	})
	if len(in) > 0 {
		name += " in pipeline " + strings.Join(in, ", ")
	}
	return name
}

// logAdapter lets opamp-go log at debug level: what matters is logged by the
// callbacks.
type logAdapter struct{ log *atomic.Pointer[zap.Logger] }

func (l logAdapter) Debugf(format string, v ...any) { l.log.Load().Sugar().Debugf(format, v...) }
func (l logAdapter) Errorf(format string, v ...any) { l.log.Load().Sugar().Debugf(format, v...) }
