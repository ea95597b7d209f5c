package connsettings

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// OpAMP is what [Connection.Validate] calls the connection to the server itself.
const OpAMP = "opamp"

// othersPrefix begins what connections with a name are called.
const othersPrefix = "other_connections"

// defaultMinVersion is what the specification and the Collector's configtls take if
// nothing is said.
const defaultMinVersion = tls.VersionTLS12

// clockSkew is how far in the future a certificate may begin: the clocks of the two
// hosts differ, and the certificate has just been made. Kerberos allows as much.
const clockSkew = 5 * time.Minute

// longestHeartbeat bounds what a server can ask for: it must not be able to silence
// an agent for days by one message. It is the longest pause, too, that a busy server
// gets.
const longestHeartbeat = time.Hour

// versions are the names of the specification, TLSConnectionSettings.
var versions = map[string]uint16{
	"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
	"TLSv1.0": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13,
}

// Over returns c with what it leaves unset as it is in former. A part is taken as a
// whole: offered headers replace all former ones, so that credentials which a server
// no longer sends are gone. The result shares its parts with both; none may be
// modified.
func (c Connection) Over(former Connection) Connection {
	if c.Endpoint == "" {
		c.Endpoint = former.Endpoint
	}
	if len(c.Headers) == 0 {
		c.Headers = former.Headers
	}
	if c.Certificate == nil {
		c.Certificate = former.Certificate
	}
	if c.TLS == nil {
		c.TLS = former.TLS
	}
	if c.Proxy == nil {
		c.Proxy = former.Proxy
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = former.Heartbeat
	}
	if len(c.Other) == 0 {
		c.Other = former.Other
	}
	return c
}

// Equal reports whether a and b are the same settings; it makes no difference whether
// a part is nil or empty.
func Equal(a, b Connection) bool { return bytes.Equal(encode(a), encode(b)) }

// encode returns v in JSON, which sorts the keys of maps and leaves out what is empty.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts, numbers, and maps of them
	}
	return data
}

// faults collects what is wrong with one connection. Its texts reach the server, and
// never hold a value of a header, of a further setting, a key, or a URL's userinfo.
type faults struct {
	what  string
	texts []string
}

func (f *faults) add(part, format string, args ...any) {
	f.texts = append(f.texts, f.what+": "+part+": "+fmt.Sprintf(format, args...))
}

func (f *faults) err() error {
	if len(f.texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(f.texts, "; "))
}

// Validate returns everything that is wrong with an offered connection, as one error
// that names the parts; it shows no secret. What is [OpAMP], a [Signal], or how a
// connection with a name is called, and begins the texts. A certificate for OpAMP may
// be without a key: it then belongs to the one that was made here.
func (c Connection) Validate(what string) error {
	f := &faults{what: what}
	c.validate(f, time.Now())
	return f.err()
}

func (c Connection) validate(f *faults, now time.Time) {
	switch f.what {
	case OpAMP:
		f.url("endpoint", c.Endpoint, "ws", "wss", "http", "https")
	case string(Metrics), string(Traces), string(Logs):
		f.url("endpoint", c.Endpoint, "http", "https")
	default: // perhaps no URL at all: a host and a port, a topic
		f.text("endpoint", c.Endpoint)
	}
	f.headers("headers", c.Headers)
	if c.Certificate != nil {
		f.certificate(*c.Certificate, now)
	}
	if c.TLS != nil {
		f.tls(*c.TLS)
	}
	if c.Proxy != nil {
		if c.Proxy.URL == "" {
			f.add("proxy", "the URL is empty")
		}
		f.url("proxy", c.Proxy.URL, "http", "https", "socks5")
		f.headers("proxy: connect headers", c.Proxy.ConnectHeaders)
	}
	if c.Heartbeat < 0 {
		f.add("heartbeat", "must not be negative, found %v", c.Heartbeat)
	}
	if c.Heartbeat > longestHeartbeat {
		f.add("heartbeat", "must be %v at most, found %v: over HTTP it is the polling interval, and the agent would be silent for as long", longestHeartbeat, c.Heartbeat)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Other)) {
		if fault := textFault(key); fault != "" {
			f.add("other settings", "a key %s", fault)
			continue
		}
		if fault := textFault(c.Other[key]); fault != "" {
			f.add("other settings", "the value of %q %s", key, fault)
		}
	}
}

// textFault returns what keeps a text from being part of a configuration.
func textFault(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "is not valid UTF-8"
	case strings.Contains(text, "${"):
		return `contains "${", which a configuration would expand`
	}
	return ""
}

func (f *faults) text(part, text string) bool {
	if fault := textFault(text); fault != "" {
		f.add(part, "%s", fault)
		return false
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		f.add(part, "contains a control character")
		return false
	}
	return true
}

func (f *faults) url(part, text string, schemes ...string) {
	if text == "" || !f.text(part, text) {
		return // which parts must not be empty is judged elsewhere
	}
	// Neither the text nor the error, which repeats it, is shown: there may be a
	// password in it.
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" || !slices.Contains(schemes, u.Scheme) {
		f.add(part, "is no URL with a host that begins with %s", strings.Join(schemes, "://, ")+"://")
	}
}

func (f *faults) headers(part string, headers http.Header) {
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		if !token.MatchString(key) {
			f.add(part, "a name is empty or has a character that no name of a header may have")
			continue
		}
		for _, value := range headers[key] {
			if fault := textFault(value); fault != "" {
				f.add(part, "the value of %q %s", key, fault)
			} else if strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
				f.add(part, "the value of %q contains a control character", key)
			}
		}
	}
}

// token is what RFC 9110, section 5.6.2, calls so.
var token = regexp.MustCompile("^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$")

func (f *faults) certificate(c Certificate, now time.Time) {
	leaf, err := leafOf(c.Cert)
	if err != nil {
		f.add("certificate", "%v", err)
		return
	}
	switch {
	case now.After(leaf.NotAfter):
		f.add("certificate", "has expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case leaf.NotBefore.After(now.Add(clockSkew)):
		f.add("certificate", "is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if len(c.Key) > 0 {
		if err := Matches(c.Cert, c.Key); err != nil {
			f.add("certificate", "%v", err)
		}
	} else if f.what != OpAMP {
		f.add("certificate", "has no private key: only the certificate of the OpAMP connection can be requested with a key that is made here")
	}
}

func (f *faults) tls(t TLS) {
	if len(t.CA) > 0 {
		if _, err := certificatesOf(t.CA); err != nil {
			f.add("tls: CA certificates", "%v", err)
		}
	}
	low, high := uint16(defaultMinVersion), uint16(tls.VersionTLS13)
	for _, v := range []struct {
		part, name string
		version    *uint16
	}{{"minimum version", t.MinVersion, &low}, {"maximum version", t.MaxVersion, &high}} {
		if v.name == "" {
			continue
		}
		version, ok := versions[v.name]
		if !ok {
			f.add("tls", `%s %q is not known: there are 1.0, 1.1, 1.2, 1.3, also written like TLSv1.2`, v.part, v.name)
			return
		}
		*v.version = version
	}
	if low > high {
		f.add("tls", "no version is left: the minimum is %s, the maximum is %s", tls.VersionName(low), tls.VersionName(high))
	}
	for _, name := range t.CipherSuites {
		if _, ok := cipherSuites()[name]; !ok {
			f.add("tls", "cipher suite %q is not known: names are those of IANA, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", name)
		}
	}
}

// cipherSuites returns all that there are by name.
func cipherSuites() map[string]*tls.CipherSuite {
	all := map[string]*tls.CipherSuite{}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		all[s.Name] = s
	}
	return all
}

// TLSConfig returns what the connection uses: local, which may be nil and is not
// modified, with what is offered instead. It is nil if local is nil and nothing is
// offered, and if the endpoint is one without TLS. The authorities are replaced as
// soon as some are offered, of the names only that of the server stays; verification
// that local leaves out stays left out, since an offer cannot tell "no" from "not
// said". The certificate must have its key.
//
// It judges nothing: see [Connection.Validate]; what may be weakened, the policy says.
func (c Connection) TLSConfig(local *tls.Config) (*tls.Config, error) {
	if plain(c.Endpoint) {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	if c.TLS == nil && c.Certificate == nil {
		return local.Clone(), nil
	}
	conf := &tls.Config{MinVersion: defaultMinVersion}
	if local != nil {
		conf = local.Clone()
	}
	// A session that was begun with other authorities or another identity must not
	// be resumed.
	conf.ClientSessionCache = nil
	if c.TLS != nil {
		if err := c.TLS.apply(conf); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	if c.Certificate != nil {
		if len(c.Certificate.Key) == 0 {
			return nil, errors.New("certificate: there is no private key: put in the one that was made for the request")
		}
		pair, err := Pair(c.Certificate.Cert, c.Certificate.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
		conf.GetClientCertificate = nil // it would win, and configtls sets it
	}
	return conf, nil
}

func (t TLS) apply(conf *tls.Config) error {
	switch {
	case len(t.CA) > 0:
		pool := x509.NewCertPool()
		if t.SystemCAs {
			var err error
			if pool, err = x509.SystemCertPool(); err != nil {
				return fmt.Errorf("reading the authorities of the system: %w", err)
			}
		}
		certificates, err := certificatesOf(t.CA)
		if err != nil {
			return fmt.Errorf("CA certificates: %w", err)
		}
		for _, certificate := range certificates {
			pool.AddCert(certificate)
		}
		conf.RootCAs = pool
	case t.SystemCAs:
		conf.RootCAs = nil // which means those of the system
	}
	if t.InsecureSkipVerify {
		conf.InsecureSkipVerify = true // the policy has allowed it
	}
	for _, v := range []struct {
		name string
		at   *uint16
	}{{t.MinVersion, &conf.MinVersion}, {t.MaxVersion, &conf.MaxVersion}} {
		if v.name == "" {
			continue
		}
		version, ok := versions[v.name]
		if !ok {
			return fmt.Errorf("version %q is not known", v.name)
		}
		*v.at = version
	}
	if conf.MinVersion == 0 {
		conf.MinVersion = defaultMinVersion
	}
	if conf.MaxVersion != 0 && conf.MaxVersion < conf.MinVersion {
		return fmt.Errorf("no version is left: the minimum is %s, the maximum is %s", tls.VersionName(conf.MinVersion), tls.VersionName(conf.MaxVersion))
	}
	if len(t.CipherSuites) > 0 {
		conf.CipherSuites = nil
		known := cipherSuites()
		for _, name := range t.CipherSuites {
			suite, ok := known[name]
			if !ok {
				return fmt.Errorf("cipher suite %q is not known", name)
			}
			conf.CipherSuites = append(conf.CipherSuites, suite.ID)
		}
	}
	return nil
}

// plain reports whether an endpoint is a URL without TLS.
func plain(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && (u.Scheme == "ws" || u.Scheme == "http")
}
