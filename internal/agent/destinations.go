package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

// filesFolder holds the certificates that values of the provider name.
const filesFolder = "connections"

// values returns the values with an offer: what it leaves out stays as it is
// wanted, or in force.
func (a *Agent) values(offer connsettings.Offer) (connsettings.Values, error) {
	base, err := a.baseValues()
	if err != nil {
		return connsettings.Values{}, err
	}
	v := connsettings.Values{Own: maps.Clone(base.Own), Others: maps.Clone(base.Others)}
	files := maps.Clone(a.connections.record.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	for signal, c := range offer.Own {
		if v.Own == nil {
			v.Own = map[connsettings.Signal]connsettings.Destination{}
		}
		if c.Endpoint == "" {
			delete(v.Own, signal)
			continue
		}
		// The SDK reads these files once: another content needs another name, which
		// makes it another configuration.
		v.Own[signal] = destination(c, v.Own[signal], files, func(content []byte) string {
			sum := sha256.Sum256(content)
			return string(signal) + "-" + hex.EncodeToString(sum[:8])
		})
	}
	if offer.Others != nil {
		others := map[string]connsettings.Destination{}
		for name, c := range offer.Others {
			// Exporters read these again from time to time (reload_interval).
			others[name] = destination(c, v.Others[name], files, func([]byte) string { return "other-" + name })
		}
		v.Others = others
	}
	if len(v.Own) > 0 {
		v.Resource = a.ownResource()
	}
	if err := a.writeFiles(files); err != nil {
		return connsettings.Values{}, err
	}
	a.connections.record.Files = a.neededFiles(files, v)
	return v, nil
}

// destination returns what the configuration sees of a connection; its
// certificates are added to files. Certificate and key are in one file, so that
// they are replaced together.
func destination(c connsettings.Connection, former connsettings.Destination, files map[string][]byte, name func([]byte) string) connsettings.Destination {
	d := former
	if c.Endpoint != "" {
		d.Endpoint = c.Endpoint
	}
	if c.Headers != nil {
		d.Headers = c.Headers
	}
	if c.Proxy != nil {
		d.Proxy = c.Proxy
	}
	if c.Other != nil {
		d.Other = c.Other
	}
	if c.TLS != nil {
		t := *c.TLS
		t.CA = nil
		d.TLS, d.CAFile = &t, ""
		if len(c.TLS.CA) > 0 {
			d.CAFile = name(c.TLS.CA) + "-ca.pem"
			files[d.CAFile] = c.TLS.CA
		}
	}
	if c.Certificate != nil {
		pair := slices.Concat(bytes.TrimSpace(c.Certificate.Cert), []byte("\n"), bytes.TrimSpace(c.Certificate.Key), []byte("\n"))
		d.CertFile = name(pair) + ".pem"
		d.KeyFile = d.CertFile
		files[d.CertFile] = pair
	}
	return d
}

// baseValues are what an offer changes: the values that are wanted, unless they
// failed, else those of the last known good.
func (a *Agent) baseValues() (connsettings.Values, error) {
	r := a.machine.Record()
	digest := r.LastKnownGood.Values
	if c := &a.connections.record; c.Values && c.Refused == "" && (r.Settings.Hash != c.Hash || r.Settings.State != rollout.StatusFailed) {
		digest = c.Wanted
	}
	return a.store.values(digest)
}

// ownResource are the attributes of the agent description as texts.
func (a *Agent) ownResource() map[string]string {
	uid, err := a.uid()
	if err != nil {
		return nil // said when the session was started
	}
	d := a.settings.Describe(uid)
	out := map[string]string{}
	for _, attributes := range []map[string]any{d.NonIdentifying, d.Identifying} {
		for key, value := range attributes {
			out[key] = fmt.Sprint(value)
		}
	}
	return out
}

// writeFiles writes those that are not there as they should be.
func (a *Agent) writeFiles(files map[string][]byte) error {
	if a.storeErr != nil {
		return a.storeErr
	}
	if len(files) == 0 {
		return nil
	}
	errs := []error{a.store.dir.MakeFolder(filesFolder)}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filesFolder + "/" + name
		if former, err := a.store.dir.ReadText(path); err == nil && bytes.Equal(former, files[name]) {
			continue
		}
		errs = append(errs, a.store.dir.WriteText(path, files[name]))
	}
	return errors.Join(errs...)
}

// neededFiles are those that v, or what can still be run, refers to. The others
// are removed.
func (a *Agent) neededFiles(files map[string][]byte, v connsettings.Values) map[string][]byte {
	needed := map[string]bool{}
	mark := func(v connsettings.Values) {
		for _, d := range slices.Concat(slices.Collect(maps.Values(v.Own)), slices.Collect(maps.Values(v.Others))) {
			needed[d.CAFile], needed[d.CertFile], needed[d.KeyFile] = true, true, true
		}
	}
	mark(v)
	for _, digest := range a.machine.Digests() {
		if v, err := a.store.values(digest); err == nil { // a body of files is none
			mark(v)
		}
	}
	kept := map[string][]byte{}
	for name, content := range files {
		if needed[name] {
			kept[name] = content
		}
	}
	names, err := a.store.dir.List(filesFolder)
	for _, name := range names {
		if kept[name] == nil {
			err = errors.Join(err, a.store.dir.Remove(filesFolder+"/"+name))
		}
	}
	if err != nil {
		a.log.Load().Warn("Removing certificates that are not needed any more", zap.Error(err))
	}
	return kept
}

// filesPath is the folder that values refer to.
func (s *store) filesPath() string {
	if s == nil {
		return ""
	}
	return filepath.Join(s.dir.Path(), filesFolder)
}

// values returns the values with the given digest; none for an empty one.
func (s *store) values(digest string) (connsettings.Values, error) {
	if digest == "" {
		return connsettings.Values{}, nil
	}
	if !isDigest(digest) {
		return connsettings.Values{}, fmt.Errorf("looking for the connections %q, which is not a digest: %w", digest, fs.ErrNotExist)
	}
	data, err := s.read(bodyName(digest))
	if err != nil {
		return connsettings.Values{}, err
	}
	v, err := connsettings.DecodeValues(data)
	if err == nil && v.Digest() != digest {
		err = errors.New("their content has another digest")
	}
	if err != nil {
		return connsettings.Values{}, fmt.Errorf("decoding the connections %q: %w", digest, err)
	}
	return v, nil
}

// saveValues makes values durable under their digest.
func (a *Agent) saveValues(v connsettings.Values) error {
	digest := v.Digest()
	if digest == "" {
		return nil
	}
	if _, err := a.store.values(digest); err == nil {
		return nil
	}
	return a.store.write(bodyName(digest), v.Encode())
}

// offerValues gives the machine the values that are wanted.
func (a *Agent) offerValues() {
	r := a.connections.record
	a.step(rollout.SettingsOffered{Hash: r.Hash, Values: r.Wanted, Context: a.verdictContext()})
}

// Value returns one value of the connections that belong to the configuration which
// the last [ProviderLease.Retrieve] returned; path is that of [opampuri.URI]. Ok is
// false if the server has offered none. Another value comes with another
// configuration: the function given to Retrieve tells of both.
func (p *ProviderLease) Value(ctx context.Context, path string) (value string, ok bool, err error) {
	a := p.agent
	var values connsettings.Values
	var dir string
	if err := a.call(ctx, func() { values, dir = a.connections.served, a.store.filesPath() }); err != nil {
		return "", false, fmt.Errorf("looking for a value of a connection: %w", err)
	}
	return lookup(values, path, dir)
}

// PeekValue is to [ProviderLease.Value] what [Peek] is to Retrieve.
func PeekValue(name, stateDir, path string, purpose process.Purpose) (value string, ok bool, err error) {
	c, err := peek(name, stateDir, purpose)
	if err != nil {
		return "", false, err
	}
	return lookup(c.values, path, c.files)
}

func lookup(values connsettings.Values, path, dir string) (string, bool, error) {
	value, err := values.Get(path, dir)
	if errors.Is(err, connsettings.ErrUnset) {
		return "", false, nil
	}
	return value, err == nil, err
}
