package owntelemetry

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
)

// Lists are the configuration that the overlay is united with, references
// unexpanded. Nothing in it is modified.
type Lists struct {
	// Below are the layers that the overlay is merged over, in their order: the
	// local ones before the remote configuration, and that itself.
	Below []map[string]any
	// Above are the local layers that are merged over the overlay, in their order.
	Above []map[string]any
	// Hidden: there is a layer among them that cannot be read.
	Hidden bool
}

// exportInterval is how often own metrics are sent, in milliseconds (specification,
// "Own Telemetry Reporting": 10 seconds are recommended).
const exportInterval = 10_000

// exportTimeout is how long one export may take, in milliseconds. A Collector that
// stops or reloads exports a last time after its pipelines have stopped, one signal
// after the other: with the default of 30 s each, a destination that does not answer
// would cost longer without service than the drain timeout of 60 s.
const exportTimeout = 3_000

// signal is where a kind of own telemetry stands in the configuration.
type signal struct {
	name connsettings.Signal
	// section and list are keys below service::telemetry.
	section, list string
	// entry makes an entry of the list.
	entry func(exporter map[string]any) map[string]any
}

var signals = []signal{
	{connsettings.Metrics, "metrics", "readers", func(exporter map[string]any) map[string]any {
		return map[string]any{"periodic": map[string]any{"interval": exportInterval, "timeout": exportTimeout, "exporter": exporter}}
	}},
	{connsettings.Traces, "traces", "processors", batch},
	{connsettings.Logs, "logs", "processors", batch},
}

func batch(exporter map[string]any) map[string]any {
	return map[string]any{"batch": map[string]any{"export_timeout": exportTimeout, "exporter": exporter}}
}

// Overlay returns what is to be merged over the remote configuration for the
// destinations of own telemetry in v: entries of
//
//	service::telemetry::{metrics::readers, traces::processors, logs::processors}
//
// and service::telemetry::resource. They are made of references to values of the
// agent called name (${opamp:name#own_metrics/endpoint}), so that the configuration
// holds none of them. It is empty if v has no destination.
//
// The Collector replaces lists when it merges, so each list of the overlay begins
// with what the list would be without it; that of metrics begins with the reader that
// the Collector has when it is told of none (Prometheus on localhost:8888). Resource
// has the attributes of v.Resource, and those that are configured and not named
// there.
//
// What cannot be united is left out: a list behind a reference or in a layer that
// cannot be read would otherwise be lost. What is configured here comes first, and
// [Check] says why.
//
// # No feedback
//
// Measured with the Collector v0.158.
//
// Own logs do not feed on themselves when their destination fails. The exporter hands
// what it cannot send to OpenTelemetry's error handler; the Collector sets none, and
// the default one writes a line to stderr past the Collector's log, so that none of it
// is exported. There is one such line for each batch that was given up, and none while
// nothing is logged. The batch processor keeps 2048 records and drops the oldest.
//
// They do when the destination is a receiver of this Collector, and something in the
// pipeline logs what passes: with the debug exporter one record a second for ever,
// and with verbosity detailed each contains the one before, 34 lines more each second
// without an end. So such a destination must be refused: see [Loops]. An exporter in
// that pipeline that fails logs one record for each batch, which the Collector's
// sampling (10 records of a kind in 10 s, and each 100th) bounds as elsewhere.
//
// # At the end of a configuration
//
// When the Collector stops or reloads, it exports once more, one signal after the
// other. Here that takes 3 s for metrics and traces and 6 s for logs at most, which may
// have an export under way. If metrics or logs cannot be sent then, the Collector says
// that the retiring configuration failed to shut down: a reload ends with an error, and
// a stop with exit code 1. Traces do no such thing.
func Overlay(v connsettings.Values, name string, local Lists) map[string]any {
	overlay, _ := unite(v, name, local)
	return overlay
}

// Check returns what of v cannot be, or not as it was offered: parts that the
// Collector's own telemetry has no setting for, and what [Overlay] leaves out. The
// texts name the signal and hold no value of a header.
func Check(v connsettings.Values, local Lists) error {
	errs := []error{}
	for _, s := range signals {
		if d := v.Own[s.name]; d.Endpoint != "" {
			errs = append(errs, supported(s, d))
		}
	}
	_, err := unite(v, "", local)
	return errors.Join(append(errs, err)...)
}

// supported returns why a destination would be used otherwise than it was offered.
// The Collector v0.158 knows an endpoint, headers and the files of TLS.
func supported(s signal, d connsettings.Destination) error {
	var parts []string
	if u, err := url.Parse(d.Endpoint); err == nil {
		if u.RawQuery != "" {
			parts = append(parts, "a query in the endpoint")
		}
		if u.User != nil {
			parts = append(parts, "a user in the endpoint (offer a header)")
		}
	}
	if d.Proxy != nil {
		parts = append(parts, "a proxy (set HTTPS_PROXY for the process)")
	}
	if t := d.TLS; t != nil {
		if t.InsecureSkipVerify {
			parts = append(parts, "insecure_skip_verify")
		}
		if t.MinVersion != "" && !slices.Contains([]string{"1.2", "TLSv1.2"}, t.MinVersion) { // Go's default
			parts = append(parts, fmt.Sprintf("the least version %q of TLS", t.MinVersion))
		}
		if t.MaxVersion != "" && !slices.Contains([]string{"1.3", "TLSv1.3"}, t.MaxVersion) {
			parts = append(parts, fmt.Sprintf("the last version %q of TLS", t.MaxVersion))
		}
		if len(t.CipherSuites) > 0 {
			parts = append(parts, "a list of cipher suites")
		}
		if t.SystemCAs && d.CAFile != "" {
			parts = append(parts, "certificates of its own together with those of the system")
		}
	}
	if (d.CertFile == "") != (d.KeyFile == "") {
		parts = append(parts, "a client certificate without a key, or the reverse")
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("%s: the Collector's own telemetry cannot have %s", s.name, strings.Join(parts, ", or "))
}

// unite returns the overlay, and why parts of it are missing.
func unite(v connsettings.Values, name string, local Lists) (map[string]any, error) {
	var errs []error
	telemetry := map[string]any{}
	below, above := section(local.Below), section(local.Above)
	for _, s := range signals {
		d, ok := v.Own[s.name]
		if !ok || d.Endpoint == "" {
			continue
		}
		list, err := s.without(below, above, local.Hidden)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		exporter, err := exporter(s.name, d, name, mapHeaders(list))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		telemetry[s.section] = map[string]any{s.list: append(slices.Clone(list), s.entry(map[string]any{"otlp": exporter}))}
	}
	if len(telemetry) == 0 {
		return map[string]any{}, errors.Join(errs...)
	}
	if len(v.Resource) > 0 {
		resource, err := resource(v.Resource, below, above, local.Hidden)
		if err != nil {
			errs = append(errs, fmt.Errorf("resource: %w", err))
		} else {
			telemetry["resource"] = resource
		}
	}
	return map[string]any{"service": map[string]any{"telemetry": telemetry}}, errors.Join(errs...)
}

// found is service::telemetry of some layers.
type found struct {
	// values has nil where a layer has null.
	values map[string]any
	// null: a layer has null for service::telemetry, or for service.
	null bool
	// hidden is the path of a reference that stands where a section belongs; empty
	// if there is none.
	hidden string
}

// section merges service::telemetry of the layers as the Collector does: maps by
// key, everything else as a whole.
func section(layers []map[string]any) found {
	all := confmap.New()
	var f found
	for _, layer := range layers {
		layer = confmap.NewFromStringMap(layer).ToStringMap() // keys with "::" taken apart
		for at, path := any(layer), []string{"service", "telemetry"}; ; path = path[1:] {
			m, ok := at.(map[string]any)
			if !ok && at != nil {
				f.hidden = "service::telemetry"
			}
			if !ok || len(path) == 0 {
				break
			}
			at = m[path[0]]
		}
		if err := all.Merge(confmap.NewFromStringMap(layer)); err != nil {
			f.hidden = "service::telemetry"
		}
	}
	service, _ := all.ToStringMap()["service"].(map[string]any)
	f.null = all.IsSet("service") && service == nil || all.IsSet("service::telemetry") && service["telemetry"] == nil
	f.values, _ = service["telemetry"].(map[string]any)
	return f
}

// get returns what is at the path; ok is false if nothing is. A value that is no map
// where one belongs is an error.
func (f found) get(path ...string) (value any, ok bool, err error) {
	if f.hidden != "" {
		return nil, false, hiddenError(f.hidden)
	}
	value, ok = f.values, f.values != nil
	for i, key := range path {
		m, isMap := value.(map[string]any)
		if !isMap && value != nil {
			return nil, false, hiddenError("service::telemetry::" + strings.Join(path[:i], "::"))
		}
		if value, ok = m[key]; !ok {
			return nil, false, nil
		}
	}
	return value, ok, nil
}

// cleared reports whether a layer has null for the section or for what it is in.
func (f found) cleared(name string) bool {
	value, ok := f.values[name]
	return f.null || ok && value == nil
}

func hiddenError(path string) error {
	return fmt.Errorf("%s is a reference, or no section: what is behind it would be lost; write it out", path)
}

var errHidden = errors.New("a layer of --config cannot be read: its own telemetry would be lost; use a file or a yaml: URI")

// without returns the list as it is without the overlay.
func (s signal) without(below, above found, hidden bool) ([]any, error) {
	if hidden {
		return nil, errHidden
	}
	at := "service::telemetry::" + s.section
	if _, ok, err := above.get(s.section, s.list); err != nil {
		return nil, err
	} else if ok || above.cleared(s.section) {
		return nil, fmt.Errorf("%s::%s is set in a layer after the opamp: URI, which comes first", at, s.list)
	}
	for _, layers := range []found{above, below} {
		level, ok, err := layers.get(s.section, "level")
		if err != nil {
			return nil, err
		}
		if ok && s.name != connsettings.Logs { // their level is one of severity
			if text, isText := level.(string); isText && strings.EqualFold(text, "none") {
				return nil, fmt.Errorf("%s::level is none", at)
			}
			break
		}
	}
	value, ok, err := below.get(s.section, s.list)
	if err != nil {
		return nil, err
	}
	if !ok {
		if s.name == connsettings.Metrics {
			return []any{defaultReader()}, nil
		}
		return nil, nil
	}
	switch list := value.(type) {
	case nil:
		return nil, nil
	case []any:
		return list, nil
	default:
		return nil, hiddenError(at + "::" + s.list)
	}
}

// defaultReader is what the Collector v0.158 has without readers; it sets the rest
// itself. A test compares.
func defaultReader() map[string]any {
	return map[string]any{"pull": map[string]any{"exporter": map[string]any{"prometheus": map[string]any{"host": "localhost", "port": 8888}}}}
}

// exporter returns the settings of OTLP. Headers are a map if asMap is set, which is
// the older form.
func exporter(s connsettings.Signal, d connsettings.Destination, name string, asMap bool) (map[string]any, error) {
	ref := func(field string) string {
		return "${" + opampuri.Scheme + ":" + name + "#" + string(s) + "/" + field + "}"
	}
	otlp := map[string]any{"protocol": "http/protobuf", "endpoint": ref("endpoint")}
	for key, file := range map[string]struct{ path, field string }{
		"certificate":        {d.CAFile, "tls/ca_file"},
		"client_certificate": {d.CertFile, "tls/cert_file"},
		"client_key":         {d.KeyFile, "tls/key_file"},
	} {
		if file.path != "" {
			otlp[key] = ref(file.field)
		}
	}
	if len(d.Headers) == 0 {
		return otlp, nil
	}
	list, byName := []any{}, map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(d.Headers)) {
		if key == "" || strings.ContainsAny(key, "/$}") || strings.Contains(key, ":-") {
			return nil, fmt.Errorf("the header %q cannot be referred to", key)
		}
		list = append(list, map[string]any{"name": key, "value": ref("headers/" + key)})
		byName[key] = ref("headers/" + key)
	}
	if otlp["headers"] = list; asMap {
		otlp["headers"] = byName
	}
	return otlp, nil
}

// mapHeaders reports whether the list is written in the older form, in which headers
// are a map. The Collector takes either form for the whole section.
func mapHeaders(list []any) bool {
	var has func(any) bool
	has = func(value any) bool {
		m, _ := value.(map[string]any)
		for key, x := range m {
			_, isMap := x.(map[string]any)
			if isMap && (key == "headers" || has(x)) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(list, has)
}

// resource returns service::telemetry::resource in the form that is used already: a
// list of attributes, or the older map.
func resource(attributes map[string]string, below, above found, hidden bool) (map[string]any, error) {
	if hidden {
		return nil, errHidden
	}
	list := []any{}
	isMap := false
	for i, layers := range []found{below, above} {
		value, ok, err := layers.get("resource")
		if err != nil {
			return nil, err
		}
		m, known := value.(map[string]any)
		if ok && !known && value != nil {
			return nil, hiddenError("service::telemetry::resource")
		}
		for key, x := range m {
			switch key {
			case "attributes":
				own, known := x.([]any)
				if !known && x != nil {
					return nil, hiddenError("service::telemetry::resource::attributes")
				}
				if i == 1 {
					return nil, errors.New("service::telemetry::resource::attributes is set in a layer after the opamp: URI, which comes first")
				}
				list = own
			case "schema_url", "detectors", "detection/development", "attributes_list":
			default:
				isMap = true
			}
		}
	}
	added := map[string]any{}
	for key, value := range attributes {
		added[key] = strings.ReplaceAll(value, "$", "$$") // nothing in it is a reference
	}
	if isMap {
		return added, nil
	}
	united := []any{}
	for _, x := range list {
		m, known := x.(map[string]any)
		if !known {
			return nil, hiddenError("an entry of service::telemetry::resource::attributes")
		}
		if key, _ := m["name"].(string); !strings.Contains(key, "${") {
			if _, ok := attributes[key]; ok {
				continue
			}
		}
		united = append(united, x)
	}
	for _, key := range slices.Sorted(maps.Keys(added)) {
		united = append(united, map[string]any{"name": key, "value": added[key]})
	}
	return map[string]any{"attributes": united}, nil
}
