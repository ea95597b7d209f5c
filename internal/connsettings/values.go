package connsettings

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
)

// ErrUnset is in the errors of [Values.Get] for values that could have been offered
// and were not, so that a default applies.
var ErrUnset = errors.New("nothing is offered")

// fields are what a path may end with.
const fields = "endpoint, headers/<name>, tls/ca_file, tls/cert_file, tls/key_file, tls/min_version, tls/insecure_skip_verify, proxy/url, other/<key>"

// IsEmpty reports whether no connection is part of the configuration.
func (v Values) IsEmpty() bool { return len(v.Own) == 0 && len(v.Others) == 0 }

// Encode returns v in the form that [DecodeValues] reads. Equal values have the same.
// It holds secrets: the values of headers.
func (v Values) Encode() []byte { return encode(v) }

// Secrets returns the values that texts must not show, by the reference to show
// instead: those of headers, and long ones of other settings, which may hold keys. The
// references are without an agent's name.
func (v Values) Secrets() map[string]string {
	secrets := map[string]string{}
	add := func(what string, d Destination) {
		for key, values := range d.Headers {
			for _, value := range values {
				secrets["${opamp:#"+what+"/headers/"+key+"}"] = value
			}
		}
		for key, value := range d.Other {
			if len(value) >= leastSecret {
				secrets["${opamp:#"+what+"/other/"+key+"}"] = value
			}
		}
		if d.Proxy != nil {
			for key, values := range d.Proxy.ConnectHeaders {
				for _, value := range values {
					secrets["[proxy header "+key+" of "+what+"]"] = value
				}
			}
		}
	}
	for signal, d := range v.Own {
		add(string(signal), d)
	}
	for name, d := range v.Others {
		add(othersPrefix+"/"+name, d)
	}
	return secrets
}

// leastSecret is the length in bytes from which another setting may be a key: shorter
// ones are words such as gzip.
const leastSecret = 8

// Digest returns the SHA-256 of the encoded values in hexadecimal; empty if
// [Values.IsEmpty].
func (v Values) Digest() string {
	if v.IsEmpty() {
		return ""
	}
	sum := sha256.Sum256(v.Encode())
	return hex.EncodeToString(sum[:])
}

// DecodeValues reads what [Values.Encode] wrote. What it returns without an error
// refers to no file outside of the folder of connections.
func DecodeValues(data []byte) (Values, error) {
	var v Values
	if err := json.Unmarshal(data, &v); err != nil {
		// The error's text may repeat a part of the data.
		return Values{}, errors.New("decoding the values of connections: this is not what was encoded")
	}
	for signal, d := range v.Own {
		if !signal.known() {
			return Values{}, fmt.Errorf("decoding the values of connections: there is no own telemetry %q: there are %s", signal, signalNames())
		}
		if err := d.check(); err != nil {
			return Values{}, fmt.Errorf("decoding the values of connections: %s: %w", signal, err)
		}
	}
	for name, d := range v.Others {
		if !opampuri.ValidName(name) {
			return Values{}, fmt.Errorf("decoding the values of connections: %q is no name of a connection", name)
		}
		if err := d.check(); err != nil {
			return Values{}, fmt.Errorf("decoding the values of connections: %s/%s: %w", othersPrefix, name, err)
		}
	}
	return v, nil
}

func (d Destination) check() error {
	for _, file := range []string{d.CAFile, d.CertFile, d.KeyFile} {
		if file != "" && !isLocal(file) {
			return fmt.Errorf("the file %q is not in the folder of connections", file)
		}
	}
	return nil
}

// isLocal reports whether a relative path with slashes stays where it begins.
func isLocal(file string) bool { return filepath.IsLocal(filepath.FromSlash(file)) }

// Get returns one value. Path is the name of a [Signal], or other_connections/ and a
// name, followed by one of
//
//	/endpoint
//	/headers/<name>
//	/tls/ca_file, /tls/cert_file, /tls/key_file, /tls/min_version, /tls/insecure_skip_verify
//	/proxy/url
//	/other/<key>
//
// Dir is the absolute path of the folder of connections; files come back as absolute
// paths. Several values of a header are joined by ", ". A version is "1.2" also if it
// was offered as "TLSv1.2", as configtls wants it. The value is as it was offered: who
// puts it into a configuration must write "$$" for each "$".
//
// Errors say which connections and fields there are, and never show a value; those
// for what is not offered are [ErrUnset].
func (v Values) Get(path, dir string) (string, error) {
	value, err := v.get(path, dir)
	if err != nil {
		return "", fmt.Errorf("looking up %q among the values of connections: %w", path, err)
	}
	return value, nil
}

func (v Values) get(path, dir string) (string, error) {
	first, rest, _ := strings.Cut(path, "/")
	if first != othersPrefix {
		if !Signal(first).known() {
			return "", fmt.Errorf("a path begins with %s, or %s/<name>", signalNames(), othersPrefix)
		}
		d, ok := v.Own[Signal(first)]
		return d.get(rest, dir, ok, "", first)
	}
	name, rest, _ := strings.Cut(rest, "/")
	if !opampuri.ValidName(name) {
		return "", fmt.Errorf("%q is no name of a connection: write %s/<name>/<field>", name, othersPrefix)
	}
	d, ok := v.Others[name]
	return d.get(rest, dir, ok, v.offered(), othersPrefix+"/"+name)
}

// offered lists the names of connections.
func (v Values) offered() string {
	if len(v.Others) == 0 {
		return "; offered is none"
	}
	names := slices.Sorted(maps.Keys(v.Others))
	for i, name := range names {
		names[i] = strconv.Quote(name)
	}
	return "; offered are " + strings.Join(names, ", ")
}

// get returns the value of a field. What is the connection's name; offered says which
// others there are, if there are any names.
func (d Destination) get(field, dir string, ok bool, offered, what string) (string, error) {
	value, set, known := d.field(field)
	if !known {
		return "", fmt.Errorf("there is no field %q: there are %s", field, fields)
	}
	if !ok {
		return "", fmt.Errorf("%w for %s%s: a default for this case is written behind the path, as in %s/%s:-default", ErrUnset, what, offered, what, field)
	}
	if !set {
		return "", fmt.Errorf("%w for the field %q of %s: a default for this case is written behind the path, as in %s/%s:-default", ErrUnset, field, what, what, field)
	}
	if !strings.HasSuffix(field, "_file") || !strings.HasPrefix(field, "tls/") {
		return value, nil
	}
	if !isLocal(value) {
		return "", fmt.Errorf("the file %q is not in the folder of connections", value)
	}
	return filepath.Join(dir, filepath.FromSlash(value)), nil
}

// field returns the value of a field, whether it is offered, and whether there is such
// a field at all. A header or a further setting may be offered with an empty value.
func (d Destination) field(field string) (value string, set, known bool) {
	text := func(value string) (string, bool, bool) { return value, value != "", true }
	switch field {
	case "endpoint":
		return text(d.Endpoint)
	case "tls/ca_file":
		return text(d.CAFile)
	case "tls/cert_file":
		return text(d.CertFile)
	case "tls/key_file":
		return text(d.KeyFile)
	case "tls/min_version":
		if d.TLS == nil {
			return "", false, true
		}
		return text(strings.TrimPrefix(d.TLS.MinVersion, "TLSv"))
	case "tls/insecure_skip_verify":
		if d.TLS == nil {
			return "", false, true
		}
		return text(strconv.FormatBool(d.TLS.InsecureSkipVerify))
	case "proxy/url":
		if d.Proxy == nil {
			return "", false, true
		}
		return text(d.Proxy.URL)
	}
	if key, ok := strings.CutPrefix(field, "headers/"); ok && key != "" {
		values := d.Headers.Values(key)
		return strings.Join(values, ", "), len(values) > 0, true
	}
	if key, ok := strings.CutPrefix(field, "other/"); ok && key != "" {
		value, set = d.Other[key]
		return value, set, true
	}
	return "", false, false
}
