package connsettings_test

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOver: what an offer leaves out stays as it is, part by part.
//
// Conformance: 101
func TestOver(t *testing.T) {
	t.Parallel()
	former := connsettings.Connection{
		Endpoint:    "wss://a",
		Headers:     http.Header{"A": {"1"}, "B": {"2"}},
		Certificate: &connsettings.Certificate{Cert: []byte("a")},
		TLS:         &connsettings.TLS{MinVersion: "1.3"},
		Proxy:       &connsettings.Proxy{URL: "http://a"},
		Heartbeat:   time.Second,
		Other:       map[string]string{"a": "1"},
	}
	assert.Equal(t, former, connsettings.Connection{}.Over(former))
	assert.Equal(t, former, former.Over(connsettings.Connection{}))
	all := connsettings.Connection{
		Endpoint:    "wss://b",
		Headers:     http.Header{"C": {"3"}},
		Certificate: &connsettings.Certificate{Cert: []byte("b")},
		TLS:         &connsettings.TLS{},
		Proxy:       &connsettings.Proxy{URL: "http://b"},
		Heartbeat:   time.Minute,
		Other:       map[string]string{"b": "2"},
	}
	assert.Equal(t, all, all.Over(former))
	assert.Equal(t, "wss://a", former.Endpoint)
	one := connsettings.Connection{Headers: http.Header{"C": {"3"}}}.Over(former)
	assert.Equal(t, http.Header{"C": {"3"}}, one.Headers)
	assert.Equal(t, former.TLS, one.TLS)
}

func TestEqual(t *testing.T) {
	t.Parallel()
	full := func() connsettings.Connection {
		return connsettings.Connection{
			Endpoint:    "wss://a",
			Headers:     http.Header{"A": {"1"}, "B": {"2"}},
			Certificate: &connsettings.Certificate{Cert: []byte("a"), Key: []byte("k")},
			TLS:         &connsettings.TLS{MinVersion: "1.3", CipherSuites: []string{"x"}},
			Proxy:       &connsettings.Proxy{URL: "http://a", ConnectHeaders: http.Header{"A": {"1"}}},
			Heartbeat:   time.Second,
			Other:       map[string]string{"a": "1"},
		}
	}
	assert.True(t, connsettings.Equal(full(), full()))
	assert.True(t, connsettings.Equal(connsettings.Connection{}, connsettings.Connection{Headers: http.Header{}, Other: map[string]string{}}))
	for name, change := range map[string]func(*connsettings.Connection){
		"endpoint":        func(c *connsettings.Connection) { c.Endpoint = "wss://b" },
		"header":          func(c *connsettings.Connection) { c.Headers.Set("A", "2") },
		"certificate":     func(c *connsettings.Connection) { c.Certificate.Key = nil },
		"TLS":             func(c *connsettings.Connection) { c.TLS.InsecureSkipVerify = true },
		"cipher suites":   func(c *connsettings.Connection) { c.TLS.CipherSuites = nil },
		"proxy":           func(c *connsettings.Connection) { c.Proxy = nil },
		"connect headers": func(c *connsettings.Connection) { c.Proxy.ConnectHeaders.Add("A", "2") },
		"heartbeat":       func(c *connsettings.Connection) { c.Heartbeat++ },
		"other":           func(c *connsettings.Connection) { c.Other["b"] = "2" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := full()
			change(&changed)
			assert.False(t, connsettings.Equal(full(), changed))
		})
	}
}

// TestValidate: what cannot work is refused, with a text that names the part and
// holds no secret.
func TestValidate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	now := time.Now()
	cert, key := ca.issue(t, now.Add(-time.Minute), now.Add(time.Hour))
	_, anotherKey := ca.issue(t, now, now.Add(time.Hour))
	expired, expiredKey := ca.issue(t, now.Add(-time.Hour), now.Add(-time.Minute))
	early, earlyKey := ca.issue(t, now.Add(time.Hour), now.Add(2*time.Hour))
	skewed, skewedKey := ca.issue(t, now.Add(time.Minute), now.Add(2*time.Hour))
	type (
		C = connsettings.Connection
		P = connsettings.Certificate
		T = connsettings.TLS
	)
	certificate := func(cert, key []byte) C { return C{Certificate: &P{Cert: cert, Key: key}} }
	header := func(name, value string) C { return C{Headers: http.Header{name: {value}}} }
	const backend = "other_connections/backend"
	for _, tt := range []struct {
		name, what string
		c          C
		want       string // empty if it is valid
	}{
		{name: "nothing", what: "opamp"},
		{name: "all", what: "opamp", c: C{
			Endpoint: "wss://u:s3cret@h:4320/v1/opamp", Headers: http.Header{"Authorization": {"Bearer s3cret", "é\t"}}, Certificate: &P{Cert: cert, Key: key},
			TLS:   &T{CA: ca.pem, MinVersion: "TLSv1.2", MaxVersion: "1.3", CipherSuites: []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
			Proxy: &connsettings.Proxy{URL: "socks5://u:s3cret@p:1080", ConnectHeaders: http.Header{"A": {"s3cret"}}}, Heartbeat: time.Second,
		}},
		{name: "http", what: "opamp", c: C{Endpoint: "http://h"}},
		{name: "upper case", what: "opamp", c: C{Endpoint: "WSS://h"}},
		{name: "no scheme", what: "opamp", c: C{Endpoint: "s3cret@h:4320"}, want: "opamp: endpoint: is no URL with a host that begins with ws://, wss://, http://, https://"},
		{name: "another scheme", what: "opamp", c: C{Endpoint: "ftp://u:s3cret@h"}, want: "opamp: endpoint: is no URL"},
		{name: "no host", what: "opamp", c: C{Endpoint: "wss://:s3cret/x"}, want: "opamp: endpoint: is no URL"},
		{name: "only a port", what: "opamp", c: C{Endpoint: "wss://:4320/x"}, want: "opamp: endpoint: is no URL"},
		{name: "no URL", what: "opamp", c: C{Endpoint: "wss://u:s3cret@h/%zz"}, want: "opamp: endpoint: is no URL"},
		{name: "a reference", what: "opamp", c: C{Endpoint: "wss://h/${env:S3CRET}"}, want: `opamp: endpoint: contains "${"`},
		{name: "no text", what: "opamp", c: C{Endpoint: "wss://h/\xff"}, want: "opamp: endpoint: is not valid UTF-8"},
		{name: "a line", what: "opamp", c: C{Endpoint: "wss://h/\n"}, want: "opamp: endpoint: contains a control character"},
		{name: "own telemetry", what: "own_metrics", c: C{Endpoint: "https://h:4318/v1/metrics"}},
		{name: "own telemetry by WebSocket", what: "own_metrics", c: C{Endpoint: "wss://h"}, want: "own_metrics: endpoint: is no URL with a host that begins with http://, https://"},
		{name: "host and port", what: backend, c: C{Endpoint: "h:4317"}},
		{name: "other with a reference", what: backend, c: C{Endpoint: "${env:S3CRET}"}, want: `other_connections/backend: endpoint: contains "${"`},
		{name: "header name", what: "opamp", c: header("A s3cret", "x"), want: "opamp: headers: a name is empty or has"},
		{name: "no header name", what: "opamp", c: header("", "x"), want: "opamp: headers: a name is empty or has"},
		{name: "header with two lines", what: "opamp", c: header("A", "s3cret\r\nB: c"), want: `opamp: headers: the value of "A" contains a control character`},
		{name: "header with a reference", what: "opamp", c: header("A", "s3cret ${env:X}"), want: `opamp: headers: the value of "A" contains "${"`},
		{name: "header that is no text", what: "opamp", c: header("A", "s3cret\xff"), want: `opamp: headers: the value of "A" is not valid UTF-8`},
		{name: "requested certificate", what: "opamp", c: certificate(cert, nil)},
		{name: "requested certificate elsewhere", what: backend, c: certificate(cert, nil), want: "other_connections/backend: certificate: has no private key"},
		{name: "certificate elsewhere", what: backend, c: certificate(cert, key)},
		{name: "another key", what: "opamp", c: certificate(cert, anotherKey), want: "opamp: certificate: the private key cannot be read, or does not belong"},
		{name: "no key", what: "opamp", c: certificate(cert, []byte("-----BEGIN s3cret-----\nczNjcmV0\n-----END s3cret-----\n")), want: "opamp: certificate: the private key cannot be read"},
		{name: "key as certificate", what: "opamp", c: certificate(key, key), want: "opamp: certificate: there is no certificate in PEM"},
		{name: "broken certificate", what: "opamp", c: certificate(encodePEM("CERTIFICATE", []byte("s3cret")), key), want: "opamp: certificate: certificate number 1 of the PEM text cannot be read"},
		{name: "no certificate", what: "opamp", c: C{Certificate: &P{}}, want: "opamp: certificate: there is no certificate in PEM"},
		{name: "expired", what: "opamp", c: certificate(expired, expiredKey), want: "opamp: certificate: has expired at "},
		{name: "not yet valid", what: "opamp", c: certificate(early, earlyKey), want: "opamp: certificate: is not valid before "},
		{name: "another clock", what: "opamp", c: certificate(skewed, skewedKey)},
		{name: "authority", what: "opamp", c: C{TLS: &T{CA: []byte("s3cret")}}, want: "opamp: tls: CA certificates: there is no certificate in PEM"},
		{name: "version", what: "opamp", c: C{TLS: &T{MinVersion: "1.4"}}, want: `opamp: tls: minimum version "1.4" is not known`},
		{name: "SSL", what: "opamp", c: C{TLS: &T{MaxVersion: "SSLv3"}}, want: `opamp: tls: maximum version "SSLv3" is not known`},
		{name: "no version", what: "opamp", c: C{TLS: &T{MinVersion: "1.3", MaxVersion: "1.2"}}, want: "opamp: tls: no version is left: the minimum is TLS 1.3, the maximum is TLS 1.2"},
		{name: "no version by default", what: "opamp", c: C{TLS: &T{MaxVersion: "1.1"}}, want: "opamp: tls: no version is left"},
		{name: "cipher suite", what: "opamp", c: C{TLS: &T{CipherSuites: []string{"ECDHE"}}}, want: `opamp: tls: cipher suite "ECDHE" is not known`},
		{name: "no proxy", what: "opamp", c: C{Proxy: &connsettings.Proxy{}}, want: "opamp: proxy: the URL is empty"},
		{name: "proxy", what: "opamp", c: C{Proxy: &connsettings.Proxy{URL: "u:s3cret@p"}}, want: "opamp: proxy: is no URL with a host that begins with http://, https://, socks5://"},
		{name: "proxy header", what: "opamp", c: C{Proxy: &connsettings.Proxy{URL: "http://p", ConnectHeaders: http.Header{"A": {"s3cret\n"}}}}, want: `opamp: proxy: connect headers: the value of "A" contains a control character`},
		{name: "heartbeat", what: "opamp", c: C{Heartbeat: -time.Second}, want: "opamp: heartbeat: must not be negative, found -1s"},
		{name: "longest heartbeat", what: "opamp", c: C{Heartbeat: time.Hour}},
		{name: "heartbeat that is none", what: "opamp", c: C{Heartbeat: time.Hour + time.Second}, want: "opamp: heartbeat: must be 1h0m0s at most, found 1h0m1s: over HTTP it is the polling interval, and the agent would be silent for as long"},
		{name: "other setting", what: backend, c: C{Other: map[string]string{"a": "s3cret${x}"}}, want: `other_connections/backend: other settings: the value of "a" contains "${"`},
		{name: "other setting that is no text", what: backend, c: C{Other: map[string]string{"a": "s3cret\xff"}}, want: `other_connections/backend: other settings: the value of "a" is not valid UTF-8`},
		{name: "other key", what: backend, c: C{Other: map[string]string{"${s3cret}": ""}}, want: `other_connections/backend: other settings: a key contains "${"`},
		{name: "two parts", what: "opamp", c: C{Endpoint: "x", Heartbeat: -1}, want: "https://; opamp: heartbeat: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.c.Validate(tt.what)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, strings.ToLower(err.Error()), "s3cret")
		})
	}
}

// TestOfferOverAnother: two offers of which nothing was made ask for what they would
// have asked for one after the other.
func TestOfferOverAnother(t *testing.T) {
	t.Parallel()
	type C = connsettings.Connection
	type own = map[connsettings.Signal]C
	token := http.Header{"Authorization": {"t"}}
	whole := C{Endpoint: "https://a", Headers: token}
	for name, tt := range map[string]struct{ former, later, want connsettings.Offer }{
		"the OpAMP connection": {
			connsettings.Offer{OpAMP: &whole},
			connsettings.Offer{OpAMP: &C{Endpoint: "https://b"}},
			connsettings.Offer{OpAMP: &C{Endpoint: "https://b", Headers: token}},
		},
		"kinds that one of them has": {
			connsettings.Offer{OpAMP: &whole, Others: map[string]C{"a": whole}},
			connsettings.Offer{Own: own{connsettings.Logs: whole}},
			connsettings.Offer{OpAMP: &whole, Others: map[string]C{"a": whole}, Own: own{connsettings.Logs: whole}},
		},
		"destinations": {
			connsettings.Offer{Own: own{connsettings.Metrics: whole, connsettings.Traces: whole}},
			connsettings.Offer{Own: own{connsettings.Metrics: {Endpoint: "https://b"}, connsettings.Logs: {Endpoint: "https://c"}}},
			connsettings.Offer{Own: own{connsettings.Metrics: {Endpoint: "https://b", Headers: token}, connsettings.Traces: whole, connsettings.Logs: {Endpoint: "https://c"}}},
		},
		"a destination that is withdrawn": {
			connsettings.Offer{Own: own{connsettings.Metrics: whole}},
			connsettings.Offer{Own: own{connsettings.Metrics: {}}},
			connsettings.Offer{Own: own{connsettings.Metrics: {}}},
		},
		"a destination that was withdrawn": {
			connsettings.Offer{Own: own{connsettings.Metrics: {Headers: token}}},
			connsettings.Offer{Own: own{connsettings.Metrics: {Endpoint: "https://b"}}},
			connsettings.Offer{Own: own{connsettings.Metrics: {Endpoint: "https://b"}}},
		},
		"names": {
			connsettings.Offer{Others: map[string]C{"a": whole, "gone": whole}},
			connsettings.Offer{Others: map[string]C{"a": {Endpoint: "b:4317"}, "b": {}}},
			connsettings.Offer{Others: map[string]C{"a": {Endpoint: "b:4317", Headers: token}, "b": {}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.former.Hash, tt.later.Hash, tt.want.Hash = []byte("1"), []byte("2"), []byte("2")
			former, later := tt.former, tt.later
			former.Own, former.Others = maps.Clone(former.Own), maps.Clone(former.Others)
			later.Own, later.Others = maps.Clone(later.Own), maps.Clone(later.Others)
			assert.Equal(t, tt.want, later.Over(former))
			assert.Equal(t, tt.former, former, "it is modified")
			assert.Equal(t, tt.later, later, "it is modified")
		})
	}
}

// TestValidateOffer: all parts of an offer are judged, and all names in it.
func TestValidateOffer(t *testing.T) {
	t.Parallel()
	type C = connsettings.Connection
	good := connsettings.Offer{
		Hash: []byte{1}, OpAMP: &C{Endpoint: "wss://h"},
		Own:    map[connsettings.Signal]C{connsettings.Metrics: {Endpoint: "https://h/v1/metrics"}, connsettings.Logs: {}},
		Others: map[string]C{"back-end_1.a": {Endpoint: "h:4317"}, strings.Repeat("x", 64): {}},
	}
	require.NoError(t, good.Validate())
	require.NoError(t, connsettings.Offer{Hash: []byte{1}}.Validate())
	bad := connsettings.Offer{
		OpAMP:  &C{Endpoint: "h"},
		Own:    map[connsettings.Signal]C{connsettings.Traces: {Endpoint: "h"}, "own_profiles": {}},
		Others: map[string]C{"backend": {Endpoint: "${x}"}},
	}
	err := bad.Validate()
	for _, want := range []string{
		"the offer has no hash", "opamp: endpoint: ", "own_traces: endpoint: ", "there are own_metrics, own_traces, own_logs", "other_connections/backend: endpoint: ",
	} {
		require.ErrorContains(t, err, want)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "${x}", "é", "a\n", "\xff", strings.Repeat("x", 65)} {
		require.ErrorContains(t, connsettings.Offer{Hash: []byte{1}, Others: map[string]C{name: {}}}.Validate(), "the name of a connection must have 1 to 64 characters", "%q", name)
	}
}

// TestTLSConfig: what is offered takes the place of what is local, which is not
// modified.
func TestTLSConfig(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.issue(t, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	type (
		C = connsettings.Connection
		T = connsettings.TLS
	)
	local := func() *tls.Config {
		return &tls.Config{
			ServerName: "name", MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool(), InsecureSkipVerify: true,
			ClientSessionCache:   tls.NewLRUClientSessionCache(1),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, http.ErrServerClosed },
		}
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		conf, err := C{Endpoint: "wss://h"}.TLSConfig(nil)
		require.NoError(t, err)
		assert.Nil(t, conf)
	})
	t.Run("no TLS", func(t *testing.T) {
		t.Parallel()
		for _, endpoint := range []string{"ws://h", "http://h"} {
			conf, err := C{Endpoint: endpoint, TLS: &T{}}.TLSConfig(local())
			require.NoError(t, err)
			assert.Nil(t, conf)
		}
	})
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		l := local()
		conf, err := C{Endpoint: "wss://h"}.TLSConfig(l)
		require.NoError(t, err)
		assert.NotSame(t, l, conf)
		assert.Equal(t, "name", conf.ServerName)
		assert.NotNil(t, conf.GetClientCertificate)
	})
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		l := local()
		conf, err := C{
			Certificate: &connsettings.Certificate{Cert: cert, Key: key},
			TLS:         &T{CA: ca.pem, MinVersion: "1.1", MaxVersion: "TLSv1.2", CipherSuites: []string{"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}},
		}.TLSConfig(l)
		require.NoError(t, err)
		assert.Equal(t, "name", conf.ServerName)
		assert.Equal(t, uint16(tls.VersionTLS11), conf.MinVersion)
		assert.Equal(t, uint16(tls.VersionTLS12), conf.MaxVersion)
		assert.Equal(t, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}, conf.CipherSuites)
		assert.True(t, conf.InsecureSkipVerify, "what is not verified locally")
		assert.Nil(t, conf.GetClientCertificate)
		assert.Nil(t, conf.ClientSessionCache)
		assert.Len(t, conf.Certificates, 1)
		pool := x509.NewCertPool()
		pool.AddCert(ca.certificate)
		assert.True(t, pool.Equal(conf.RootCAs))
		// Local is as it was.
		assert.Equal(t, uint16(tls.VersionTLS13), l.MinVersion)
		assert.Zero(t, l.MaxVersion)
		assert.NotNil(t, l.GetClientCertificate)
		assert.NotNil(t, l.ClientSessionCache)
		assert.True(t, x509.NewCertPool().Equal(l.RootCAs))
	})
	t.Run("minimum by default", func(t *testing.T) {
		t.Parallel()
		for _, l := range []*tls.Config{nil, {}} {
			conf, err := C{TLS: &T{}}.TLSConfig(l)
			require.NoError(t, err)
			assert.Equal(t, uint16(tls.VersionTLS12), conf.MinVersion)
			assert.False(t, conf.InsecureSkipVerify)
		}
		conf, err := C{TLS: &T{}}.TLSConfig(local())
		require.NoError(t, err)
		assert.Equal(t, uint16(tls.VersionTLS13), conf.MinVersion)
	})
	t.Run("authorities", func(t *testing.T) {
		t.Parallel()
		conf, err := C{TLS: &T{}}.TLSConfig(local())
		require.NoError(t, err)
		assert.NotNil(t, conf.RootCAs, "the local ones stay")
		conf, err = C{TLS: &T{SystemCAs: true}}.TLSConfig(local())
		require.NoError(t, err)
		assert.Nil(t, conf.RootCAs, "those of the system")
		conf, err = C{TLS: &T{SystemCAs: true, CA: ca.pem}}.TLSConfig(local())
		require.NoError(t, err)
		both, err := x509.SystemCertPool()
		require.NoError(t, err)
		both.AddCert(ca.certificate)
		assert.True(t, both.Equal(conf.RootCAs))
		conf, err = C{Certificate: &connsettings.Certificate{Cert: cert, Key: key}}.TLSConfig(nil)
		require.NoError(t, err)
		assert.Nil(t, conf.RootCAs)
	})
	for name, tt := range map[string]struct {
		c    C
		want string
	}{
		"no key":           {C{Certificate: &connsettings.Certificate{Cert: cert}}, "certificate: there is no private key"},
		"another key":      {C{Certificate: &connsettings.Certificate{Cert: cert, Key: []byte("s3cret")}}, "certificate: the private key cannot be read"},
		"authority":        {C{TLS: &T{CA: []byte("x")}}, "tls: CA certificates: there is no certificate"},
		"version":          {C{TLS: &T{MaxVersion: "2"}}, `tls: version "2" is not known`},
		"below the local":  {C{TLS: &T{MaxVersion: "1.2"}}, "tls: no version is left: the minimum is TLS 1.3, the maximum is TLS 1.2"},
		"cipher suite":     {C{TLS: &T{CipherSuites: []string{"x"}}}, `tls: cipher suite "x" is not known`},
		"broken authority": {C{TLS: &T{CA: append(slices.Clip(ca.pem), encodePEM("CERTIFICATE", []byte("x"))...)}}, "tls: CA certificates: certificate number 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf, err := tt.c.TLSConfig(local())
			require.ErrorContains(t, err, tt.want)
			assert.Nil(t, conf)
		})
	}
}

// TestHandshake: what was offered is what a server sees: the certificate that was
// requested, verified by the offered authority.
func TestHandshake(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	pair, err := connsettings.Pair(serverCert, serverKey)
	require.NoError(t, err)
	clients := x509.NewCertPool()
	clients.AddCert(ca.certificate)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "uid", r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	t.Cleanup(server.Close)

	cert, key := ca.issue(t, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	get := func(c connsettings.Connection) error {
		conf, err := c.TLSConfig(nil)
		require.NoError(t, err)
		transport := &http.Transport{TLSClientConfig: conf}
		defer transport.CloseIdleConnections()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		require.NoError(t, err)
		response, err := transport.RoundTrip(request)
		if err == nil {
			require.NoError(t, response.Body.Close())
		}
		return err
	}
	c := connsettings.Connection{Certificate: &connsettings.Certificate{Cert: cert, Key: key}}
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, get(c), &unknown, "who issued the client's certificate is no authority")
	c.TLS = &connsettings.TLS{CA: ca.pem}
	require.NoError(t, get(c))
	c.Certificate = nil
	require.Error(t, get(c))
}
