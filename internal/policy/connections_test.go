package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

// authority returns an authority of its own in PEM, and the pool that trusts it.
func authority(t *testing.T) ([]byte, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	return text, pool
}

// connectionCase is an offer of one connection.
type connectionCase struct {
	change  func(*policy.ConnectionSettings)
	local   func(*policy.ConnectionsLocal)
	offered connsettings.Connection
	want    string // part of the refusal; empty if there is none
}

func (tt connectionCase) run(t *testing.T, offer func(connsettings.Connection) connsettings.Offer) {
	t.Helper()
	p := newPolicy(t, func(s *policy.Settings) {
		if tt.change != nil {
			tt.change(&s.Connections)
		}
	})
	local := policy.ConnectionsLocal{Endpoint: "wss://opamp.example.com:4320/v1/opamp"}
	if tt.local != nil {
		tt.local(&local)
	}
	err := p.CheckConnections(offer(tt.offered), local)
	if tt.want == "" {
		require.NoError(t, err)
		return
	}
	require.ErrorContains(t, err, tt.want)
	assert.NotContains(t, err.Error(), secret)
}

func allowHosts(patterns ...string) func(*policy.ConnectionSettings) {
	return func(s *policy.ConnectionSettings) { s.Hosts.Allow = patterns }
}

func mayWeaken(s *policy.ConnectionSettings) { s.MayWeakenTLS = true }

func localEndpoint(url string) func(*policy.ConnectionsLocal) {
	return func(l *policy.ConnectionsLocal) { l.Endpoint = url }
}

func withTLS(c connsettings.TLS) connsettings.Connection { return connsettings.Connection{TLS: &c} }

func headers(name, value string) connsettings.Connection {
	return connsettings.Connection{Headers: http.Header{name: {value}}}
}

func endpoint(url string) connsettings.Connection { return connsettings.Connection{Endpoint: url} }

func proxy(url string) connsettings.Connection {
	return connsettings.Connection{Proxy: &connsettings.Proxy{URL: url}}
}

// The connection to the server is not taken to another host, and gets no weaker.
func TestOpAMPConnection(t *testing.T) {
	t.Parallel()
	ca, pool := authority(t)
	otherCA, _ := authority(t)
	hasAuth := func(l *policy.ConnectionsLocal) { l.HasAuth = true }
	private := func(l *policy.ConnectionsLocal) {
		l.LocalTLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	}
	const host = `(rule connections::hosts)`
	const weak = `(rule connections::may_weaken_tls)`
	const auth = `(rule connections::may_replace_auth)`
	const form = `(rule connections)`
	for name, tt := range map[string]connectionCase{
		"nothing":                   {},
		"the same host":             {offered: endpoint("wss://opamp.example.com/other")},
		"the same host, other case": {offered: endpoint("wss://OPAMP.example.com:4321/")},
		"the other transport":       {offered: endpoint("https://opamp.example.com/v1/opamp")},
		"a header":                  {offered: headers("X-Tenant", "a b")},
		"a header without an auth":  {offered: headers("Authorization", "Bearer "+secret)},
		"a heartbeat":               {offered: connsettings.Connection{Heartbeat: time.Minute}},

		"another host":                     {offered: endpoint("wss://evil.example.com/"), want: `"connection settings: opamp: endpoint" names a host that is not allowed`},
		"a host that ends alike":           {offered: endpoint("wss://xopamp.example.com/"), want: host},
		"a host in the user name":          {offered: endpoint("wss://opamp.example.com@evil.example.com/"), want: host},
		"a host with a backslash":          {offered: endpoint(`wss://evil.example.com\@opamp.example.com/`), want: form},
		"a host with a dot":                {offered: endpoint("wss://opamp.example.com./"), want: host},
		"a letter that becomes another":    {local: localEndpoint("wss://k.example.com"), offered: endpoint("wss://\u212a.example.com"), want: form},
		"the same, escaped":                {local: localEndpoint("wss://k.example.com"), offered: endpoint("wss://%E2%84%AA.example.com"), want: form},
		"an escaped host":                  {offered: endpoint("wss://%6fpamp.example.com"), want: form},
		"a space before it":                {offered: endpoint(" wss://opamp.example.com"), want: form},
		"no URL":                           {offered: endpoint("opamp.example.com:4320"), want: form},
		"another scheme":                   {offered: endpoint("file://opamp.example.com/x"), want: form},
		"no host":                          {offered: endpoint("wss:///v1/opamp"), want: form},
		"an allowed host":                  {change: allowHosts("*.example.com"), offered: endpoint("wss://b.example.com/")},
		"an allowed host and port":         {change: allowHosts("b.example.com:443"), offered: endpoint("wss://b.example.com/")},
		"an allowed host, another port":    {change: allowHosts("b.example.com:443"), offered: endpoint("wss://b.example.com:444/"), want: host},
		"the local host beside a list":     {change: allowHosts("b.example.com"), offered: endpoint("wss://opamp.example.com/")},
		"hosts that look like one":         {change: allowHosts("*.example.com"), offered: endpoint("wss://evil.com,x.example.com/"), want: form},
		"loopback by its name":             {change: allowHosts("localhost"), offered: endpoint("wss://[::1]:1/")},
		"an unknown local endpoint":        {local: localEndpoint(""), offered: endpoint("wss://opamp.example.com/"), want: host},
		"an unknown local one, plain text": {local: localEndpoint(""), change: allowHosts("*"), offered: endpoint("ws://opamp.example.com/"), want: weak},

		"a proxy":                    {offered: proxy("http://evil.example.com:3128"), want: `"connection settings: opamp: proxy: url" names a host`},
		"a proxy without a scheme":   {offered: proxy("evil.example.com:3128"), want: host},
		"a proxy on the host":        {offered: proxy("http://user:" + secret + "@opamp.example.com:3128")},
		"an allowed proxy":           {change: allowHosts("proxy.example.com:3128"), offered: proxy("proxy.example.com:3128")},
		"a proxy with a user":        {offered: proxy("http://user:" + secret + "@evil.example.com"), want: host},
		"headers of the proxy":       {offered: connsettings.Connection{Proxy: &connsettings.Proxy{URL: "http://opamp.example.com", ConnectHeaders: http.Header{"Host": {"x"}}}}, want: `proxy: connect_headers: Host" is a header of the protocol`},
		"a reference in the proxy":   {offered: proxy("http://${env:AWS_SECRET_ACCESS_KEY}@opamp.example.com"), want: `"connection settings: opamp: proxy: url" has a reference to the variable "AWS_SECRET_ACCESS_KEY", which is denied: write the value out (rule env)`},
		"a reference for the header": {offered: connsettings.Connection{Proxy: &connsettings.Proxy{URL: "http://opamp.example.com", ConnectHeaders: http.Header{"A": {"${file:/x}"}}}}, want: `connect_headers: A" has a reference with the scheme "file"`},

		"plain text":                      {offered: endpoint("ws://opamp.example.com/"), want: `"connection settings: opamp: endpoint" is plain text where the connection is encrypted`},
		"plain text by the other way":     {offered: endpoint("http://opamp.example.com/"), want: weak},
		"plain text as in the local one":  {local: localEndpoint("ws://opamp.example.com"), offered: endpoint("http://opamp.example.com/")},
		"plain text that may be":          {change: mayWeaken, offered: endpoint("ws://opamp.example.com/")},
		"plain text where it got better":  {local: func(l *policy.ConnectionsLocal) { l.Endpoint, l.InUse = "ws://a", endpoint("wss://a") }, offered: endpoint("ws://a/x"), want: weak},
		"no verification":                 {offered: withTLS(connsettings.TLS{InsecureSkipVerify: true}), want: `"connection settings: opamp: tls: insecure_skip_verify" turns the verification of the server off`},
		"no verification that may be":     {change: mayWeaken, offered: withTLS(connsettings.TLS{InsecureSkipVerify: true})},
		"no verification as in the local": {local: func(l *policy.ConnectionsLocal) { l.LocalTLS = &tls.Config{InsecureSkipVerify: true} }, offered: withTLS(connsettings.TLS{InsecureSkipVerify: true})},
		"no verification again": {
			local: func(l *policy.ConnectionsLocal) {
				l.LocalTLS, l.InUse = &tls.Config{InsecureSkipVerify: true}, withTLS(connsettings.TLS{SystemCAs: true})
			},
			offered: withTLS(connsettings.TLS{InsecureSkipVerify: true}), want: weak,
		},
		"an authority":                     {offered: withTLS(connsettings.TLS{CA: ca}), want: `"connection settings: opamp: tls: ca" is an authority`},
		"an authority that may be":         {change: mayWeaken, offered: withTLS(connsettings.TLS{CA: ca})},
		"the local authority":              {local: private, offered: withTLS(connsettings.TLS{CA: ca})},
		"another authority than the local": {local: private, offered: withTLS(connsettings.TLS{CA: otherCA}), want: "tls: ca"},
		"one more authority":               {local: private, offered: withTLS(connsettings.TLS{CA: append(append([]byte{}, ca...), otherCA...)}), want: "tls: ca"},
		"the authorities of the system":    {offered: withTLS(connsettings.TLS{SystemCAs: true})},
		"the system's beside the local":    {local: private, offered: withTLS(connsettings.TLS{SystemCAs: true}), want: "tls: system_cas"},
		"the same version":                 {offered: withTLS(connsettings.TLS{MinVersion: "TLSv1.2"})},
		"a higher version":                 {offered: withTLS(connsettings.TLS{MinVersion: "1.3"})},
		"a lower version":                  {offered: withTLS(connsettings.TLS{MinVersion: "1.1"}), want: `tls: min_version" is lower than TLS 1.2`},
		"a lower version than the local":   {local: private, offered: withTLS(connsettings.TLS{MinVersion: "1.2"}), want: `tls: min_version" is lower than TLS 1.3`},
		"a lower version than in use":      {local: func(l *policy.ConnectionsLocal) { l.InUse = withTLS(connsettings.TLS{MinVersion: "1.3"}) }, offered: withTLS(connsettings.TLS{MinVersion: "1.2"}), want: weak},
		"no version where one is in use":   {local: func(l *policy.ConnectionsLocal) { l.InUse = withTLS(connsettings.TLS{MinVersion: "1.3"}) }, offered: withTLS(connsettings.TLS{SystemCAs: true}), want: "is missing, and so lower"},
		"a lower highest version":          {offered: withTLS(connsettings.TLS{MaxVersion: "TLSv1.0"}), want: "tls: max_version"},
		"a lower version that may be":      {change: mayWeaken, offered: withTLS(connsettings.TLS{MinVersion: "1.0"})},
		"no version at all":                {change: mayWeaken, offered: withTLS(connsettings.TLS{MinVersion: "2"}), want: `tls: min_version" is no version of TLS`},
		"a suite that is not secure":       {offered: withTLS(connsettings.TLS{CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}), want: "tls: cipher_suites"},
		"a suite that is":                  {offered: withTLS(connsettings.TLS{CipherSuites: []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}})},
		"a suite that the local one has, too": {local: func(l *policy.ConnectionsLocal) {
			l.LocalTLS = &tls.Config{CipherSuites: []uint16{tls.TLS_RSA_WITH_RC4_128_SHA}}
		}, offered: withTLS(connsettings.TLS{CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}})},

		"a header of the auth":        {local: hasAuth, offered: headers("Authorization", secret), want: `"connection settings: opamp: headers: Authorization" is a header of the extension that authenticates`},
		"in lower case":               {local: hasAuth, offered: headers("authorization", secret), want: auth},
		"a header beside it":          {local: hasAuth, offered: headers("X-Tenant", secret)},
		"a header of it that may be":  {change: func(s *policy.ConnectionSettings) { s.MayReplaceAuth = true }, local: hasAuth, offered: headers("Authorization", secret)},
		"a user name":                 {local: hasAuth, offered: endpoint("wss://u:" + secret + "@opamp.example.com"), want: `"connection settings: opamp: endpoint" has a user name in it`},
		"a user name without an auth": {offered: endpoint("wss://u:" + secret + "@opamp.example.com")},

		"a header of WebSocket":      {offered: headers("Sec-WebSocket-Protocol", "x"), want: `headers: Sec-WebSocket-Protocol" is a header of the protocol itself`},
		"a header of HTTP":           {offered: headers("transfer-encoding", "x"), want: form},
		"the host as a header":       {offered: headers("Host", "x"), want: form},
		"another agent's UID":        {offered: headers("OpAMP-Instance-UID", "x"), want: form},
		"a line break":               {offered: headers("A", "x\r\nB: y"), want: `headers: A" has a value with a line break`},
		"a line break in a name":     {offered: headers("A\r\nB", "x"), want: "is no name of a header"},
		"a header without a name":    {offered: headers("", "x"), want: "is no name of a header"},
		"a reference":                {offered: headers("A", "Bearer ${env:AWS_SECRET_ACCESS_KEY}"), want: `"connection settings: opamp: headers: A" has a reference to the variable "AWS_SECRET_ACCESS_KEY", which is denied`},
		"a reference that may be":    {offered: headers("A", "Bearer ${env:OTELCOL_REMOTE_NAME}"), want: `headers: A" has a reference: write the value out`},
		"a reference that is no one": {offered: headers("A", "$${x}"), want: "has a reference"},
		"a reference in a name":      {offered: headers("${file:/x}", "x"), want: `scheme "file"`},
		"a reference in an endpoint": {offered: endpoint("wss://opamp.example.com/${file:/x}"), want: `endpoint" has a reference with the scheme "file"`},
		"a reference in a version":   {offered: withTLS(connsettings.TLS{MinVersion: "${file:/x}"}), want: `tls: min_version" has a reference`},
		"a reference in a suite":     {offered: withTLS(connsettings.TLS{CipherSuites: []string{"${file:/x}"}}), want: `tls: cipher_suites" has a reference`},
		"what is shown for a secret": {offered: headers("A", "[REDACTED]"), want: "(rule redacted)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, func(c connsettings.Connection) connsettings.Offer { return connsettings.Offer{OpAMP: &c} })
		})
	}
}

// Telemetry may go to any host by default, but not in plain text.
func TestDestinations(t *testing.T) {
	t.Parallel()
	ca, _ := authority(t)
	withEndpoint := func(url string, c connsettings.Connection) connsettings.Connection {
		c.Endpoint = url
		return c
	}
	insecure := withTLS(connsettings.TLS{InsecureSkipVerify: true})
	own := map[string]connectionCase{
		"withdrawn":              {offered: connsettings.Connection{}},
		"any host":               {offered: endpoint("https://otlp.example.org/v1/metrics")},
		"an authority":           {offered: withEndpoint("https://a", withTLS(connsettings.TLS{CA: ca}))},
		"a header":               {offered: withEndpoint("https://a", headers("Authorization", secret))},
		"plain text":             {offered: endpoint("http://otlp.example.org/"), want: `AT: endpoint" is plain text: leave it out, or set policy::connections::may_weaken_tls locally`},
		"in upper case":          {offered: endpoint("HTTP://otlp.example.org/"), want: "is plain text"},
		"plain text to loopback": {offered: endpoint("http://localhost:4318/v1/metrics")},
		"to an address of it":    {offered: endpoint("http://127.0.0.2:4318")},
		"to one in six parts":    {offered: endpoint("http://[::1]:4318")},
		"to what looks like it":  {offered: endpoint("http://localhost.example.org"), want: "is plain text"},
		"to a number":            {offered: endpoint("http://2130706433"), want: "is plain text"},
		"plain text that may be": {change: mayWeaken, offered: endpoint("http://otlp.example.org/")},
		"no verification":        {offered: withEndpoint("https://a", insecure), want: `AT: tls: insecure_skip_verify" turns`},
		"of loopback":            {offered: withEndpoint("https://localhost", insecure)},
		"that may be":            {change: mayWeaken, offered: withEndpoint("https://a", insecure)},
		"a lower version":        {offered: withEndpoint("https://a", withTLS(connsettings.TLS{MinVersion: "1.0"})), want: `AT: tls: min_version" is lower than TLS 1.2`},
		"a weak suite":           {offered: withEndpoint("https://a", withTLS(connsettings.TLS{CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}})), want: "cipher_suites"},
		"an allowed host":        {change: allowHosts("*.example.com"), offered: endpoint("https://a.example.com")},
		"another host":           {change: allowHosts("*.example.com"), offered: endpoint("https://a.example.org"), want: `AT: endpoint" names a host that is not allowed`},
		"the server's host":      {change: allowHosts("x"), offered: endpoint("https://opamp.example.com"), want: "names a host"},
		"any proxy":              {offered: withEndpoint("https://a", proxy("http://p"))},
		"another proxy":          {change: allowHosts("a"), offered: withEndpoint("https://a", proxy("http://user:"+secret+"@p")), want: `AT: proxy: url" names a host`},
		"no URL with a host":     {offered: endpoint("https:///x"), want: "(rule connections)"},
		"a line break":           {offered: withEndpoint("https://a", headers("A", "x\ny")), want: "has a value with a line break"},
		"a reference":            {offered: withEndpoint("https://a", headers("A", "${file:/x}")), want: `AT: headers: A" has a reference with the scheme "file"`},
	}
	for name, tt := range own {
		for at, offer := range map[string]func(connsettings.Connection) connsettings.Offer{
			"own_metrics": func(c connsettings.Connection) connsettings.Offer {
				return connsettings.Offer{Own: map[connsettings.Signal]connsettings.Connection{connsettings.Metrics: c}}
			},
			"other_connections: backend": func(c connsettings.Connection) connsettings.Offer {
				return connsettings.Offer{Others: map[string]connsettings.Connection{"backend": c}}
			},
		} {
			tt := tt
			tt.want = strings.ReplaceAll(tt.want, "AT", at)
			t.Run(name+" "+at, func(t *testing.T) {
				t.Parallel()
				tt.run(t, offer)
			})
		}
	}
	for name, tt := range map[string]connectionCase{
		"an address":               {offered: endpoint("kafka.example.org:9092")},
		"several":                  {offered: endpoint("a:9092,b:9092")},
		"several with a list":      {change: allowHosts("*.example.com"), offered: endpoint("evil.org,a.example.com:1"), want: "names a host"},
		"several with any":         {change: allowHosts("*"), offered: endpoint("a:9092,b:9092"), want: "names a host"},
		"a space before it":        {offered: endpoint(" http://a"), want: "is no URL with a host"},
		"an allowed address":       {change: allowHosts("*.example.com"), offered: endpoint("a.example.com:1")},
		"a broken one":             {offered: endpoint("http:otlp.example.org"), want: "is plain text"},
		"another setting":          {offered: connsettings.Connection{Other: map[string]string{"a": "b"}}},
		"a reference in a setting": {offered: connsettings.Connection{Other: map[string]string{"a": "${env:AWS_SECRET_ACCESS_KEY}"}}, want: `backend: other: a" has a reference`},
		"a reference for its name": {offered: connsettings.Connection{Other: map[string]string{"${file:/x}": "a"}}, want: `scheme "file"`},
		"without an endpoint":      {offered: insecure, want: "insecure_skip_verify"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, func(c connsettings.Connection) connsettings.Offer {
				return connsettings.Offer{Others: map[string]connsettings.Connection{"backend": c}}
			})
		})
	}
	t.Run("a reference in a name", func(t *testing.T) {
		t.Parallel()
		connectionCase{want: `scheme "file"`}.run(t, func(c connsettings.Connection) connsettings.Offer {
			return connsettings.Offer{Others: map[string]connsettings.Connection{"${file:/x}": c}}
		})
	})
	t.Run("a destination without a scheme", func(t *testing.T) {
		t.Parallel()
		connectionCase{offered: endpoint("otlp.example.org:4318"), want: "is no URL of a destination"}.run(t, func(c connsettings.Connection) connsettings.Offer {
			return connsettings.Offer{Own: map[connsettings.Signal]connsettings.Connection{connsettings.Logs: c}}
		})
	})
}

// All parts that are refused are told at once, in an order that does not change.
func TestConnectionsAreJudgedTogether(t *testing.T) {
	t.Parallel()
	opamp := endpoint("ws://evil.example.com")
	opamp.Headers = http.Header{"Host": {"x"}}
	err := newPolicy(t, nil).CheckConnections(connsettings.Offer{
		OpAMP:  &opamp,
		Own:    map[connsettings.Signal]connsettings.Connection{connsettings.Logs: endpoint("http://a"), connsettings.Traces: endpoint("http://b")},
		Others: map[string]connsettings.Connection{"c": endpoint("http://c")},
	}, policy.ConnectionsLocal{Endpoint: "wss://opamp.example.com"})
	var refusal *policy.RefusalError
	require.ErrorAs(t, err, &refusal)
	var paths []string
	for _, v := range refusal.Violations {
		paths = append(paths, strings.TrimPrefix(v.Path, "connection settings: "))
	}
	assert.Equal(t, []string{
		"opamp: endpoint", "opamp: endpoint", "opamp: headers: Host",
		"own_logs: endpoint", "own_traces: endpoint", "other_connections: c: endpoint",
	}, paths)
}
