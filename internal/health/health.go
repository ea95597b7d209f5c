// Package health folds component status events into one health tree: the
// Collector, its pipelines and extensions, their components.
//
// Aggregation is that of contrib's pkg/status, so that the tree means what
// contrib's health extensions mean by it.
package health

import (
	"strings"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/status"
	"go.opentelemetry.io/collector/component/componentstatus"
)

// Node is the health of the Collector or of a part of it.
type Node struct {
	Healthy bool
	// Status is a word of the Collector's component status, such as StatusOK.
	Status string
	// LastError is why the part is not healthy; empty if it is.
	LastError string
	// Started is when the part was started; zero if it is not running.
	Started time.Time
	// Changed is when Status became what it is.
	Changed time.Time
	// Parts are the parts by name, for example "pipeline:traces" and, in it,
	// "receiver:otlp".
	Parts map[string]Node
}

// Damping is how long a recoverable error must last before it is shown (design,
// section 5): a retry that succeeds is no news.
const Damping = time.Second

// Tree collects the status events of one generation of the service. It is not
// safe for concurrent use.
type Tree struct {
	latest  map[componentstatus.InstanceID]*componentstatus.Event
	started map[string]time.Time
	// damped are the components with a recoverable error, and what they were
	// before.
	damped map[componentstatus.InstanceID]damped
}

type damped struct {
	since  time.Time
	before *componentstatus.Event
}

// NewTree returns a Tree that knows no component yet.
func NewTree() *Tree {
	return &Tree{
		latest:  map[componentstatus.InstanceID]*componentstatus.Event{},
		started: map[string]time.Time{},
		damped:  map[componentstatus.InstanceID]damped{},
	}
}

// Record takes an event. A component that stopped is no part of the tree any
// more. The arguments are kept; they are immutable.
func (t *Tree) Record(source *componentstatus.InstanceID, event *componentstatus.Event) {
	key := componentKey(source)
	if event.Status() != componentstatus.StatusRecoverableError {
		delete(t.damped, *source)
	} else if _, known := t.damped[*source]; !known && t.latest[*source] != nil {
		t.damped[*source] = damped{since: event.Timestamp(), before: t.latest[*source]}
	}
	if event.Status() == componentstatus.StatusStopped {
		delete(t.started, key)
		delete(t.latest, *source)
		return
	}
	if event.Status() == componentstatus.StatusStarting {
		t.started[key] = event.Timestamp()
	}
	t.latest[*source] = event
}

// Root returns the health of the whole, whose parts have been running since
// started, as it is to be shown at the time now. A recoverable error that is
// younger than [Damping] is not shown yet; again is when it may have to be, zero
// if there is none. The caller owns the result.
func (t *Tree) Root(started, now time.Time) (root Node, again time.Time) {
	// The aggregator cannot forget a component, so it is filled anew. A
	// Collector has tens of components, and their status changes rarely.
	aggregator := status.NewAggregator(status.PriorityPermanent)
	for source, event := range t.latest {
		if d, ok := t.damped[source]; ok && now.Sub(d.since) < Damping {
			event = d.before
			if until := d.since.Add(Damping); again.IsZero() || until.Before(again) {
				again = until
			}
		}
		aggregator.RecordStatus(&source, event)
	}
	all, _ := aggregator.AggregateStatus(status.ScopeAll, status.Verbose)
	root = t.node("", all)
	root.Started = started
	return root, again
}

func (t *Tree) node(key string, s *status.AggregateStatus) Node {
	n := Node{
		Healthy: s.Status() == componentstatus.StatusOK,
		Status:  s.Status().String(),
		Started: t.started[key],
		Changed: s.Timestamp(),
	}
	if err := s.Err(); err != nil {
		n.LastError = err.Error()
	}
	for name, part := range s.ComponentStatusMap {
		if n.Parts == nil {
			n.Parts = make(map[string]Node, len(s.ComponentStatusMap))
		}
		child := t.node(name, part)
		if child.Started.IsZero() {
			child.Started = earliest(child.Parts)
		}
		n.Parts[name] = child
	}
	return n
}

// earliest returns when the first of the parts was started.
func earliest(parts map[string]Node) time.Time {
	var first time.Time
	for _, p := range parts {
		if first.IsZero() || (!p.Started.IsZero() && p.Started.Before(first)) {
			first = p.Started
		}
	}
	return first
}

func componentKey(source *componentstatus.InstanceID) string {
	return strings.ToLower(source.Kind().String()) + ":" + source.ComponentID().String()
}
