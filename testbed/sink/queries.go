package sink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Spans is the number of all spans that arrived, those of any load included.
func (s *Sink) Spans() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spans
}

// Seqs returns the numbers of the spans of a run that arrived, ascending, each
// once.
func (s *Sink) Seqs(run string) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	seqs := make([]uint64, 0, len(s.runs[run]))
	for seq := range s.runs[run] {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}

// Duplicates counts the arrivals of spans of a run that had arrived before.
func (s *Sink) Duplicates(run string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	duplicates := 0
	for _, arrivals := range s.runs[run] {
		duplicates += arrivals - 1
	}
	return duplicates
}

// Missing returns those of the accepted numbers of a run that have not arrived.
func (s *Sink) Missing(run string, accepted []uint64) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing(run, accepted)
}

// Arrivals returns, for each span that arrived, the values of the attribute
// [Settings.Via] with which it did, in order: more than one if it arrived more
// than once. It is empty without that setting. The map belongs to the caller.
func (s *Sink) Arrivals() map[SpanRef][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	arrivals := make(map[SpanRef][]string, len(s.arrivals))
	for ref, via := range s.arrivals {
		arrivals[ref] = slices.Clone(via)
	}
	return arrivals
}

// WaitArrivals waits until all these spans have arrived. It needs the setting
// [Settings.Via].
func (s *Sink) WaitArrivals(ctx context.Context, refs []SpanRef) error {
	left := refs // what has arrived stays
	err := s.await(ctx, func() bool {
		for len(left) > 0 && len(s.arrivals[left[0]]) > 0 {
			left = left[1:]
		}
		return len(left) == 0
	})
	if err != nil {
		return fmt.Errorf("waiting for %d spans (%d have arrived in order, then span %s of trace %s is missing): %w",
			len(refs), len(refs)-len(left), left[0].Span, left[0].Trace, err)
	}
	return nil
}

// WaitSpans waits until all these spans of a run have arrived.
func (s *Sink) WaitSpans(ctx context.Context, run string, seqs []uint64) error {
	var missing []uint64
	err := s.await(ctx, func() bool {
		missing = s.missing(run, seqs)
		return len(missing) == 0
	})
	if err != nil {
		return fmt.Errorf("waiting for spans of run %q (%d of %d missing, the first is %d): %w",
			run, len(missing), len(seqs), missing[0], err)
	}
	return nil
}

// WaitAttribute waits until a resource, span or log record with this attribute
// has arrived and returns when the first one did. Values that are not strings
// are compared as text.
func (s *Sink) WaitAttribute(ctx context.Context, key, value string) (time.Time, error) {
	var first time.Time
	err := s.await(ctx, func() bool {
		seen, ok := s.attributes[attribute{key: key, value: value}]
		if ok {
			first = seen.first
		}
		return ok
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("waiting for attribute %s=%q: %w", key, value, err)
	}
	return first, nil
}

// WaitAttributeAfter waits until one with this attribute arrives later than the
// given time and returns when one did: for an attribute that was seen before.
func (s *Sink) WaitAttributeAfter(ctx context.Context, key, value string, after time.Time) (time.Time, error) {
	var last time.Time
	err := s.await(ctx, func() bool {
		seen, ok := s.attributes[attribute{key: key, value: value}]
		if ok {
			last = seen.last
		}
		return ok && last.After(after)
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("waiting for attribute %s=%q after %s: %w", key, value, after.Format(time.RFC3339Nano), err)
	}
	return last, nil
}

// AttributeWith returns an attribute, as key=value, in which a text occurs; empty
// if none has arrived.
func (s *Sink) AttributeWith(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := range s.attributes {
		if pair := at.key + "=" + at.value; strings.Contains(pair, text) {
			return pair
		}
	}
	return ""
}

// MetricPoints is the number of data points of a metric that arrived.
func (s *Sink) MetricPoints(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.metricPoints[name]
}

// Metrics returns the names of the metrics that arrived, sorted.
func (s *Sink) Metrics() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.metricPoints))
	for name := range s.metricPoints {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// WaitMetric waits until a data point of this metric has arrived.
func (s *Sink) WaitMetric(ctx context.Context, name string) error {
	if err := s.await(ctx, func() bool { return s.metricPoints[name] > 0 }); err != nil {
		return fmt.Errorf("waiting for metric %q (seen: %q): %w", name, s.Metrics(), err)
	}
	return nil
}

// LogRecords is the number of log records that arrived.
func (s *Sink) LogRecords() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logRecords
}

// LogBodies are the texts of the log records that arrived, in order; the latest
// 100,000.
func (s *Sink) LogBodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

// WaitLogBody waits until a log record has arrived whose text contains this one.
func (s *Sink) WaitLogBody(ctx context.Context, text string) error {
	err := s.await(ctx, func() bool {
		return slices.ContainsFunc(s.bodies, func(body string) bool { return strings.Contains(body, text) })
	})
	if err != nil {
		return fmt.Errorf("waiting for a log record with %q (%d seen): %w", text, len(s.LogBodies()), err)
	}
	return nil
}

// WaitMetricAfter waits until a data point of this metric arrives later than the
// given time.
func (s *Sink) WaitMetricAfter(ctx context.Context, name string, after time.Time) error {
	if err := s.await(ctx, func() bool { return s.lastPoint[name].After(after) }); err != nil {
		return fmt.Errorf("waiting for metric %q after %s: %w", name, after.Format(time.RFC3339Nano), err)
	}
	return nil
}

// Resources returns the attributes of the resources of a signal that arrived at or
// after the given time, the latest last. The maps must not be modified.
func (s *Sink) Resources(signal Signal, since time.Time) []map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*resource
	for _, r := range s.resources[signal] {
		if !r.last.Before(since) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *resource) int { return a.last.Compare(b.last) })
	var attributes []map[string]string
	for _, r := range found {
		attributes = append(attributes, r.attributes)
	}
	return attributes
}

// WaitResource waits until a resource of a signal arrives at or after the given
// time, and returns the attributes of the latest. They must not be modified.
func (s *Sink) WaitResource(ctx context.Context, signal Signal, since time.Time) (map[string]string, error) {
	err := s.await(ctx, func() bool {
		for _, r := range s.resources[signal] {
			if !r.last.Before(since) {
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for a resource of %s: %w", signal, err)
	}
	all := s.Resources(signal, since)
	return all[len(all)-1], nil
}

// Scopes returns the names of the instrumentation scopes of a signal that arrived,
// sorted.
func (s *Sink) Scopes(signal Signal) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.scopes[signal]))
}
