package policy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// Rules about connections: those with a setting, and the one that always holds.
const (
	ruleHosts       = "connections::hosts"
	ruleWeakenTLS   = "connections::may_weaken_tls"
	ruleReplaceAuth = "connections::may_replace_auth"
	ruleConnections = "connections"
)

// ConnectionsLocal is what is known of the local side of connections.
type ConnectionsLocal struct {
	// Endpoint is the URL of the OpAMP server in the local configuration.
	Endpoint string
	// LocalTLS is the local configuration of TLS; nil for the defaults. It is not
	// modified.
	LocalTLS *tls.Config
	// InUse is what the OpAMP connection uses of what was offered before.
	InUse connsettings.Connection
	// HasAuth says that an extension authenticates this agent.
	HasAuth bool
}

// CheckConnections returns a [RefusalError] if the connections of an offer may not
// be used. Parts that are not offered are not judged, so own telemetry and other
// connections are to be given as they will be used: merged over what is in use.
func (p *Policy) CheckConnections(offer connsettings.Offer, local ConnectionsLocal) error {
	c := &connections{check: check{policy: p}, settings: &p.settings.Connections, local: local}
	if offer.OpAMP != nil {
		c.opamp("connection settings: opamp", offer.OpAMP)
	}
	for _, signal := range slices.Sorted(maps.Keys(offer.Own)) {
		conn := offer.Own[signal]
		at := "connection settings: " + string(signal)
		if t, ok := parseTarget(conn.Endpoint); conn.Endpoint != "" && (!ok || t.scheme != "http" && t.scheme != "https") {
			c.refuse(Violation{ruleConnections, at + ": endpoint", "is no URL of a destination", "write a URL such as https://otlp.example.com/v1/metrics"})
		}
		c.destination(at, &conn)
	}
	for _, name := range slices.Sorted(maps.Keys(offer.Others)) {
		conn := offer.Others[name]
		at := "connection settings: other_connections: " + short(name)
		c.text(at, name)
		c.destination(at, &conn)
	}
	return c.refusal()
}

// connections is one run of CheckConnections.
type connections struct {
	check
	settings *ConnectionSettings
	local    ConnectionsLocal
}

// opamp judges the connection to the OpAMP server, which manages this machine: it
// gets no weaker than what the local configuration says, and what is in use.
func (c *connections) opamp(at string, offered *connsettings.Connection) {
	c.texts(at, offered)
	local, localOK := parseTarget(c.local.Endpoint)
	if !localOK {
		local = target{scheme: "wss"} // what is not known allows nothing
	}
	allowed := func(t target) bool {
		return t.host == local.host || t.allowedBy(c.settings.Hosts.Allow)
	}
	const remedy = "use the host of the local endpoint, or add it to policy::connections::hosts::allow locally"
	if offered.Endpoint != "" {
		at := at + ": endpoint"
		t, ok := parseTarget(offered.Endpoint)
		if !ok || !slices.Contains([]string{"ws", "wss", "http", "https"}, t.scheme) {
			c.refuse(Violation{ruleConnections, at, "is no URL of an OpAMP server", "write a URL such as wss://opamp.example.com/v1/opamp"})
		} else {
			if !allowed(t) {
				c.refuse(Violation{ruleHosts, at, "names a host that is not allowed", remedy})
			}
			used, _ := parseTarget(c.local.InUse.Endpoint)
			if t.plain() && (!local.plain() || used.scheme != "" && !used.plain()) {
				c.weakens(at, "is plain text where the connection is encrypted")
			}
			if t.hasUser {
				c.replacesAuth(at, "has a user name in it")
			}
		}
	}
	if offered.Proxy != nil {
		if t, ok := parseProxy(offered.Proxy.URL); !ok || !allowed(t) {
			c.refuse(Violation{ruleHosts, at + ": proxy: url", "names a host that is not allowed", remedy})
		}
		c.protocolHeaders(at+": proxy: connect_headers", offered.Proxy.ConnectHeaders)
	}
	c.protocolHeaders(at+": headers", offered.Headers)
	for _, name := range slices.Sorted(maps.Keys(offered.Headers)) {
		if strings.EqualFold(name, "Authorization") {
			c.replacesAuth(at+": headers: "+short(name), "is a header of the extension that authenticates")
		}
	}
	if offered.TLS != nil {
		c.opampTLS(at+": tls", offered.TLS)
	}
}

// opampTLS judges how the OpAMP server is verified.
func (c *connections) opampTLS(at string, offered *connsettings.TLS) {
	local, used := c.local.LocalTLS, c.local.InUse.TLS
	if local == nil {
		local = &tls.Config{MinVersion: defaultMinVersion}
	}
	if offered.InsecureSkipVerify && (!local.InsecureSkipVerify || used != nil && !used.InsecureSkipVerify) {
		c.weakens(at+": insecure_skip_verify", "turns the verification of the server off")
	}
	if len(offered.CA) > 0 && !isAuthority(local.RootCAs, offered.CA) {
		c.weakens(at+": ca", "is an authority that would decide who the server is")
	}
	if offered.SystemCAs && local.RootCAs != nil {
		c.weakens(at+": system_cas", "adds authorities to those of the local configuration")
	}
	localMin := local.MinVersion
	if localMin == 0 {
		localMin = defaultMinVersion
	}
	least := localMin
	if used != nil {
		if v, ok := tlsVersion(used.MinVersion); ok {
			least = max(least, v)
		}
	}
	c.versions(at, offered, least)
	if offered.MinVersion == "" && least > localMin {
		c.weakens(at+": min_version", "is missing, and so lower than the one in use")
	}
	c.ciphers(at, offered, local.CipherSuites)
}

// destination judges a connection that telemetry takes. An authority that is
// offered for it is none over the management of this machine.
func (c *connections) destination(at string, conn *connsettings.Connection) {
	c.texts(at, conn)
	c.headerSyntax(at+": headers", conn.Headers)
	patterns := c.settings.Hosts.Allow
	const remedy = "use another one, or add it to policy::connections::hosts::allow locally"
	t, ok := parseTarget(conn.Endpoint)
	switch {
	case conn.Endpoint == "":
	case strings.Contains(conn.Endpoint, "://") && !ok:
		c.refuse(Violation{ruleConnections, at + ": endpoint", "is no URL with a host", "write a URL such as https://otlp.example.com"})
	case len(patterns) > 0 && (!ok || !t.allowedBy(patterns)):
		c.refuse(Violation{ruleHosts, at + ": endpoint", "names a host that is not allowed", remedy})
	}
	if conn.Proxy != nil {
		if t, ok := parseProxy(conn.Proxy.URL); len(patterns) > 0 && (!ok || !t.allowedBy(patterns)) {
			c.refuse(Violation{ruleHosts, at + ": proxy: url", "names a host that is not allowed", remedy})
		}
		c.headerSyntax(at+": proxy: connect_headers", conn.Proxy.ConnectHeaders)
	}
	if ok && t.loopback() {
		return // nobody is between
	}
	if plainScheme(conn.Endpoint) {
		c.weakens(at+": endpoint", "is plain text")
	}
	if conn.TLS != nil {
		if conn.TLS.InsecureSkipVerify {
			c.weakens(at+": tls: insecure_skip_verify", "turns the verification of the server off")
		}
		c.versions(at+": tls", conn.TLS, defaultMinVersion)
		c.ciphers(at+": tls", conn.TLS, nil)
	}
}

func (c *connections) weakens(at, found string) {
	if !c.settings.MayWeakenTLS {
		c.refuse(Violation{ruleWeakenTLS, at, found, "leave it out, or set policy::connections::may_weaken_tls locally"})
	}
}

func (c *connections) replacesAuth(at, found string) {
	if c.local.HasAuth && !c.settings.MayReplaceAuth {
		c.refuse(Violation{ruleReplaceAuth, at, found, "leave it out, or set policy::connections::may_replace_auth locally"})
	}
}

// defaultMinVersion is what the Collector and the standard library ask for where
// nothing is said.
const defaultMinVersion = tls.VersionTLS12

// tlsVersion returns the version that a name such as 1.2 or TLSv1.2 means.
func tlsVersion(name string) (uint16, bool) {
	switch strings.TrimPrefix(name, "TLSv") {
	case "1.0":
		return tls.VersionTLS10, true
	case "1.1":
		return tls.VersionTLS11, true
	case "1.2":
		return tls.VersionTLS12, true
	case "1.3":
		return tls.VersionTLS13, true
	}
	return 0, false
}

// versions checks that nothing below a version can be negotiated.
func (c *connections) versions(at string, offered *connsettings.TLS, least uint16) {
	for _, bound := range []struct{ at, name string }{{"min_version", offered.MinVersion}, {"max_version", offered.MaxVersion}} {
		if bound.name == "" {
			continue
		}
		if v, ok := tlsVersion(bound.name); !ok {
			c.refuse(Violation{ruleConnections, at + ": " + bound.at, "is no version of TLS", "write 1.2 or 1.3"})
		} else if v < least {
			c.weakens(at+": "+bound.at, "is lower than "+tls.VersionName(least))
		}
	}
}

// ciphers checks that no cipher suite is offered that is known to be weak, but
// for those that the local configuration lists.
func (c *connections) ciphers(at string, offered *connsettings.TLS, local []uint16) {
	for _, suite := range tls.InsecureCipherSuites() {
		if slices.Contains(offered.CipherSuites, suite.Name) && !slices.Contains(local, suite.ID) {
			c.weakens(at+": cipher_suites", "has one that is not secure")
		}
	}
}

// isAuthority reports whether certificates in PEM are the authorities that are
// trusted already.
func isAuthority(trusted *x509.CertPool, pem []byte) bool {
	offered := x509.NewCertPool()
	return trusted != nil && offered.AppendCertsFromPEM(pem) && trusted.Equal(offered)
}

// texts checks all texts of a connection. They are values: nothing in them may
// stand for something else, now or when the Collector resolves what they are in.
func (c *connections) texts(at string, conn *connsettings.Connection) {
	c.text(at+": endpoint", conn.Endpoint)
	c.headerTexts(at+": headers", conn.Headers)
	for _, key := range slices.Sorted(maps.Keys(conn.Other)) {
		c.text(at+": other: "+short(key), key)
		c.text(at+": other: "+short(key), conn.Other[key])
	}
	if conn.Proxy != nil {
		c.text(at+": proxy: url", conn.Proxy.URL)
		c.headerTexts(at+": proxy: connect_headers", conn.Proxy.ConnectHeaders)
	}
	if conn.TLS != nil {
		c.text(at+": tls: min_version", conn.TLS.MinVersion)
		c.text(at+": tls: max_version", conn.TLS.MaxVersion)
		for _, suite := range conn.TLS.CipherSuites {
			c.text(at+": tls: cipher_suites", suite)
		}
	}
}

func (c *connections) headerTexts(at string, header http.Header) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		c.text(at+": "+short(name), name)
		for _, value := range header[name] {
			c.text(at+": "+short(name), value)
		}
	}
}

const remedyValue = "write the value out"

func (c *connections) text(at, text string) {
	if strings.Contains(text, masked) {
		c.refuse(Violation{ruleRedacted, at, "is what this agent shows instead of a secret", "write the value"})
	}
	if !strings.Contains(text, "${") {
		return
	}
	// References that a configuration may have, too: an offer has values.
	err := c.policy.CheckText(at, text, func(string) (string, bool) { return "value", true })
	if refusal, ok := errors.AsType[*RefusalError](err); ok {
		for _, v := range refusal.Violations {
			v.Remedy = remedyValue
			c.refuse(v)
		}
		return
	}
	c.refuse(Violation{"references", at, "has a reference", remedyValue})
}

// protocolHeaders checks headers that are sent to the OpAMP server, or to a proxy
// on the way to it.
func (c *connections) protocolHeaders(at string, header http.Header) {
	c.headerSyntax(at, header)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		canonical := http.CanonicalHeaderKey(name)
		if slices.Contains(protocolHeaders, canonical) || strings.HasPrefix(canonical, "Sec-Websocket-") {
			c.refuse(Violation{ruleConnections, at + ": " + short(name), "is a header of the protocol itself", "leave it out"})
		}
	}
}

// protocolHeaders are those that HTTP, WebSocket and OpAMP need as they are; the
// instance UID says who this agent is.
var protocolHeaders = []string{
	"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host", "Keep-Alive",
	"Opamp-Instance-Uid", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// headerSyntax checks that headers are headers: a line break would begin another.
func (c *connections) headerSyntax(at string, header http.Header) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !tokenRune(r) }) {
			c.refuse(Violation{ruleConnections, at + ": " + short(name), "is no name of a header", "use letters, digits and -"})
		}
		for _, value := range header[name] {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				c.refuse(Violation{ruleConnections, at + ": " + short(name), "has a value with a line break or another control character", "write it in one line"})
			}
		}
	}
}

// tokenRune reports whether the name of a header may have a character (RFC 9110,
// section 5.6.2).
func tokenRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// target is where a connection goes.
type target struct {
	scheme, host, port string // in lower case
	hasUser            bool
}

// defaultPorts are those of endpoints that name none.
var defaultPorts = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443", "socks5": "1080"}

// parseTarget reads a URL, a host or host:port. It fails where that is no host that
// everybody reads in the same way.
func parseTarget(endpoint string) (target, bool) {
	var t target
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		if err != nil {
			return target{}, false
		}
		t = target{scheme: u.Scheme, host: u.Hostname(), port: u.Port(), hasUser: u.User != nil}
		if t.port == "" {
			t.port = defaultPorts[t.scheme]
		}
	} else {
		host, port := splitAddress(endpoint)
		t = target{host: host, port: port}
	}
	if port, err := strconv.ParseUint(t.port, 10, 16); t.port != "" && (err != nil || strconv.FormatUint(port, 10) != t.port) {
		return target{}, false
	}
	if _, err := netip.ParseAddr(t.host); err != nil {
		// ASCII only, and before it is lowered: some other letters become ASCII then.
		isHost := func(r rune) bool {
			return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._", r)
		}
		if t.host == "" || strings.ContainsFunc(t.host, func(r rune) bool { return !isHost(r) }) {
			return target{}, false
		}
	}
	t.host = strings.ToLower(t.host)
	return t, true
}

// parseProxy reads the URL of a proxy, which may lack its scheme.
func parseProxy(proxy string) (target, bool) {
	if !strings.Contains(proxy, "://") {
		proxy = "http://" + proxy
	}
	return parseTarget(proxy)
}

func (t target) plain() bool { return t.scheme == "http" || t.scheme == "ws" }

// plainScheme reports whether an endpoint, however broken, begins like one in
// plain text.
func plainScheme(endpoint string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(endpoint)), ":")
	return scheme == "http" || scheme == "ws"
}

func (t target) loopback() bool {
	ip, err := netip.ParseAddr(t.host)
	return t.host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// allowedBy reports whether a pattern of a host, or of host:port, matches. The
// pattern localhost means every loopback address.
func (t target) allowedBy(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		host, port := splitAddress(strings.ToLower(pattern))
		if port != "" && !match(port, t.port) {
			return false
		}
		return match(host, t.host) || host == "localhost" && t.loopback()
	})
}

// CheckLocked returns a [RefusalError] if what offered connections add to the
// configuration has a path that is locked.
func (p *Policy) CheckLocked(added map[string]any) error {
	c := &check{policy: p}
	for _, path := range p.locked {
		c.lockedPath("", added, path, true, "is locked", "leave destinations of own telemetry out of the connection settings, or remove it from policy::locked of the local configuration")
	}
	return c.refusal()
}

// MayReplaceAuth reports whether offered headers may replace those of the extension
// that authenticates the agent.
func (p *Policy) MayReplaceAuth() bool { return p.settings.Connections.MayReplaceAuth }
