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

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// filesFolder holds the certificates that values of the provider name.
const filesFolder = "connections"

// values returns the values with an offer over those that it changes, and the
// contents of the files that they and the values before them name.
func (a *Agent) values(offer connsettings.Offer, base connsettings.Values) (connsettings.Values, map[string][]byte) {
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
		// The SDK reads these files once: another content is another configuration.
		v.Own[signal] = destination(c, v.Own[signal], files, string(signal), false)
	}
	if offer.Others != nil {
		others := map[string]connsettings.Destination{}
		for name, c := range offer.Others {
			// Exporters read these again from time to time (reload_interval).
			others[name] = destination(c, v.Others[name], files, "other-"+name, true)
		}
		v.Others = others
	}
	if len(v.Own) > 0 {
		v.Resource = a.ownResource()
	}
	return v, files
}

// merged returns an offer with the connections of values as they will be used.
func merged(offer connsettings.Offer, base connsettings.Values) connsettings.Offer {
	own, others := maps.Clone(offer.Own), maps.Clone(offer.Others)
	for signal, c := range own {
		if c.Endpoint != "" { // else it is withdrawn
			own[signal] = c.Over(connection(base.Own[signal]))
		}
	}
	for name, c := range others {
		others[name] = c.Over(connection(base.Others[name]))
	}
	offer.Own, offer.Others = own, others
	return offer
}

// connection returns what a destination was offered as, but for its certificates.
func connection(d connsettings.Destination) connsettings.Connection {
	return connsettings.Connection{Endpoint: d.Endpoint, Headers: d.Headers, TLS: d.TLS, Proxy: d.Proxy, Other: d.Other}
}

// destination returns what the configuration sees of a connection; its certificates
// are added to files. Certificate and key are in one file, so that they are replaced
// together. A content gets a name of its own, so that a rollback comes back to the
// former one, unless it is all that changes and is read again: then the file is
// replaced, and the configuration stays the same.
func destination(c connsettings.Connection, former connsettings.Destination, files map[string][]byte, what string, readAgain bool) connsettings.Destination {
	u := c.Over(connection(former))
	d := connsettings.Destination{
		Endpoint: u.Endpoint, Headers: u.Headers, TLS: u.TLS, Proxy: u.Proxy, Other: u.Other,
		CAFile: former.CAFile, CertFile: former.CertFile, KeyFile: former.KeyFile,
	}
	var ca, pair []byte
	if c.TLS != nil {
		t := *c.TLS
		ca, t.CA = t.CA, nil
		d.TLS = &t
		if len(ca) == 0 {
			d.CAFile = ""
		}
	}
	if c.Certificate != nil {
		pair = slices.Concat(bytes.TrimSpace(c.Certificate.Cert), []byte("\n"), bytes.TrimSpace(c.Certificate.Key), []byte("\n"))
	}
	replace := readAgain && (len(ca) == 0 || former.CAFile != "") && (len(pair) == 0 || former.CertFile != "") && sameDestination(d, former)
	put := func(name string, content []byte, suffix string) string {
		if !replace && (name == "" || !bytes.Equal(files[name], content)) {
			sum := sha256.Sum256(content)
			name = what + "-" + hex.EncodeToString(sum[:8]) + suffix
		}
		files[name] = content
		return name
	}
	if len(ca) > 0 {
		d.CAFile = put(d.CAFile, ca, "-ca.pem")
	}
	if len(pair) > 0 {
		d.CertFile = put(d.CertFile, pair, ".pem")
		d.KeyFile = d.CertFile
	}
	return d
}

func sameDestination(x, y connsettings.Destination) bool {
	values := func(d connsettings.Destination) []byte {
		return connsettings.Values{Others: map[string]connsettings.Destination{"": d}}.Encode()
	}
	return bytes.Equal(values(x), values(y))
}

// baseValues are what an offer changes: the values that are wanted, unless they
// failed or are lost, else those of the last known good.
func (a *Agent) baseValues() (connsettings.Values, error) {
	r, c := a.machine.Record(), a.connections.record
	if c.WantedHash != "" && (r.Settings.Hash != c.WantedHash || r.Settings.State != rollout.StatusFailed) {
		v, err := a.store.values(c.Wanted)
		if err == nil || !lost(err) {
			return v, err
		}
	}
	v, err := a.store.values(r.LastKnownGood.Values)
	if lost(err) { // the next start finds it, too
		return connsettings.Values{}, nil
	}
	return v, err
}

// reviseValues brings the values in line with what the extension says now: kinds that
// are not accepted any more are withdrawn, and the attributes of own telemetry follow
// the agent description, which changes with the instance UID and with an upgrade. It
// is a rollout of its own, under the hash of the offer that the values come from. The
// description is looked at once for each UID of a process, so that one which never
// stays the same costs no more.
func (a *Agent) reviseValues() {
	c := &a.connections
	uid, err := a.uid()
	m := a.machine.Record()
	if err != nil || a.provider == nil || a.storeErr != nil || c.unreadable != nil || a.safe || a.extension == nil ||
		c.record.WantedHash == "" || m.Settings.Hash != c.record.WantedHash || m.Settings.State != rollout.StatusApplied {
		return
	}
	former, err := a.store.values(c.record.Wanted)
	if err != nil {
		a.warn("Looking at the values that the server gave for connections", err)
		return
	}
	v := a.accepted(former)
	if c.described != uid && len(v.Own) > 0 {
		v.Resource = a.ownResource()
	}
	c.described = uid
	if v.Digest() == former.Digest() {
		return
	}
	next := c.record
	next.Wanted, next.Accepts = v.Digest(), a.accepts()
	if err := a.saveValues(v); err != nil {
		a.warn("Saving the values of connections", err)
		return
	}
	if err := a.takeRecord(next); err != nil {
		a.warn("Saving the values of connections", err)
		return
	}
	a.log.Load().Info("What is accepted of the server's connections, or the agent description, has changed: the configuration follows")
	a.offerValues()
}

// accepted returns the values without the kinds that are not accepted.
func (a *Agent) accepted(v connsettings.Values) connsettings.Values {
	set := a.settings.Connections
	own := maps.Clone(v.Own)
	maps.DeleteFunc(own, func(signal connsettings.Signal, _ connsettings.Destination) bool { return !set.Own[signal] })
	v.Own = own
	if len(own) == 0 {
		v.Own, v.Resource = nil, nil
	}
	if !set.Others {
		v.Others = nil
	}
	return v
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
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filesFolder + "/" + name
		if former, err := a.store.dir.ReadText(path); err == nil && bytes.Equal(former, files[name]) {
			continue
		}
		if a.storeErr != nil {
			return a.storeErr
		}
		errs = append(errs, a.store.dir.MakeFolder(filesFolder), a.store.dir.WriteText(path, files[name]))
	}
	return errors.Join(errs...)
}

// foundFiles are the files of certificates in the folder, of which the record is
// lost. What is not needed is removed later.
func (a *Agent) foundFiles() map[string][]byte {
	files := map[string][]byte{}
	names, err := a.store.dir.List(filesFolder)
	a.warn("Looking for the files of certificates", err)
	for _, name := range names {
		content, err := a.store.dir.ReadText(filesFolder + "/" + name)
		if err != nil {
			a.warn("Reading the file of a certificate", err)
			continue
		}
		files[name] = content
	}
	return files
}

// pruneFiles removes the files of certificates to which neither what is wanted nor
// what can still be run refers.
func (a *Agent) pruneFiles() {
	r := &a.connections.record
	if len(r.Files) == 0 || a.storeErr != nil {
		return
	}
	needed := map[string]bool{}
	for _, digest := range append(a.machine.Digests(), r.Wanted) {
		v, err := a.store.values(digest)
		if err != nil && !lost(err) {
			return // it may be read another time, and need them then
		}
		for _, d := range slices.Concat(slices.Collect(maps.Values(v.Own)), slices.Collect(maps.Values(v.Others))) {
			needed[d.CAFile], needed[d.CertFile], needed[d.KeyFile] = true, true, true
		}
	}
	kept := map[string][]byte{}
	for name, content := range r.Files {
		if needed[name] {
			kept[name] = content
		}
	}
	if len(kept) == len(r.Files) {
		return
	}
	former := r.Files
	r.Files = kept
	if err := a.saveConnections(); err != nil {
		r.Files = former
		a.warn("Removing certificates that are not needed any more", err)
		return
	}
	names, err := a.store.dir.List(filesFolder)
	for _, name := range names {
		if kept[name] == nil {
			err = errors.Join(err, a.store.dir.Remove(filesFolder+"/"+name))
		}
	}
	a.warn("Removing certificates that are not needed any more", err)
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
		return connsettings.Values{}, fmt.Errorf("decoding the connections %q: %w: %w", digest, statedir.ErrCorrupt, err)
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
	if r := a.connections.record; r.WantedHash != "" && a.valuesOff() == "" {
		a.step(rollout.SettingsOffered{Hash: r.WantedHash, Values: r.Wanted, Context: a.verdictContext()})
	}
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
