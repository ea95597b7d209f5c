//go:build unix

package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

const (
	// certificateLifetime makes a renewal each 7 seconds, at two thirds of it.
	certificateLifetime = 10 * time.Second
	// generations of certificates are waited for.
	generations = 3
)

// signer is a server's authority for its agents, which takes note of what it issues.
type signer struct {
	ca *testca.CA

	mu sync.Mutex
	// mu guards everything below.
	issued []*x509.Certificate
}

// sign answers the request of an agent.
func (s *signer) sign(_ string, request []byte) (*protobufs.ConnectionSettingsOffers, error) {
	cert, leaf, err := s.ca.Sign(request, testca.For(certificateLifetime))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, leaf)
	return &protobufs.ConnectionSettingsOffers{Opamp: &protobufs.OpAMPConnectionSettings{
		Certificate: &protobufs.TLSCertificate{Cert: cert, CaCert: s.ca.PEM()},
	}}, nil
}

// certificates are those that were issued, in order.
func (s *signer) certificates() []*x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// demanding is the configuration of a server that lets clients in without a
// certificate of this authority only until it has issued the first one.
func (s *signer) demanding(pair testca.Pair, also *testca.CA) *tls.Config {
	config := testca.ServerConfig(pair, s.ca)
	lenient := config.Clone()
	lenient.ClientAuth = tls.VerifyClientCertIfGiven
	if also != nil {
		lenient.ClientCAs = s.ca.Pool()
		lenient.ClientCAs.AppendCertsFromPEM(also.PEM())
	}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if len(s.certificates()) == 0 {
			return lenient, nil
		}
		return nil, nil //nolint:nilnil // the library's way to say: this configuration
	}
	return config
}

// base64Text is what may be a key or a part of one in base64.
var base64Text = regexp.MustCompile(`[A-Za-z0-9+/]{40,}={0,2}`)

// privateKeys are the private keys in the files below a folder, as they stand there
// or in base64, by path.
func privateKeys(t *testing.T, dir string) map[string][]any {
	t.Helper()
	found := map[string][]any{}
	for path, f := range files(t, dir) {
		texts := []string{f.content}
		for _, text := range base64Text.FindAllString(f.content, -1) {
			if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
				texts = append(texts, string(decoded))
			}
		}
		for _, text := range texts {
			// In JSON the lines of PEM are escaped, and the first one is not at the
			// beginning of a line.
			text = strings.NewReplacer(`\n`, "\n", "-----BEGIN", "\n-----BEGIN").Replace(text)
			for rest := []byte(text); ; {
				var block *pem.Block
				block, rest = pem.Decode(rest)
				if block == nil {
					break
				}
				if !strings.Contains(block.Type, "PRIVATE KEY") {
					continue
				}
				if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
					found[path] = append(found[path], key)
				} else if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
					found[path] = append(found[path], key)
				}
			}
		}
	}
	return found
}

// fragments are the forms in which a private key could get into a message.
func fragments(t *testing.T, key any) []string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	texts := []string{string(der)}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	texts = append(texts, strings.Split(string(text), "\n")[2]) // the line that has the number of an EC key
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		scalar, err := key.Bytes()
		require.NoError(t, err)
		texts = append(texts, string(scalar))
	case ed25519.PrivateKey:
		texts = append(texts, string(key.Seed()))
	case *rsa.PrivateKey:
		texts = append(texts, string(key.D.Bytes()))
	}
	return texts
}

// frames are all messages of a server as they were on the wire.
func frames(t *testing.T, s *opampserver.Server) [][]byte {
	t.Helper()
	var all [][]byte
	for _, m := range s.Messages() {
		message := proto.Message(m.Sent)
		if m.Received != nil {
			message = m.Received
		}
		data, err := proto.Marshal(message)
		require.NoError(t, err)
		all = append(all, data)
	}
	return all
}

// serials are the certificates of attempts in the order of their first use.
func serials(attempts []opampserver.Attempt) []string {
	var all []string
	for _, a := range attempts {
		serial := ""
		if a.Certificate != nil {
			serial = a.Certificate.SerialNumber.String()
		}
		if !slices.Contains(all, serial) {
			all = append(all, serial)
		}
	}
	return all
}

// The agent makes a key, has its certificate signed, and renews it in time, again
// and again: it is never without a valid one, and the key stays where it was made.
//
// Conformance: 100, 106, 107, 108, 109, 112, 114, 116
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes long")
	}
	for name, o := range map[string]struct {
		transport opampserver.Transport
		bootstrap bool
	}{
		"trust on first use":                {transport: opampserver.WebSocket},
		"trust on first use, over HTTP":     {transport: opampserver.HTTP},
		"with a certificate for the start":  {transport: opampserver.WebSocket, bootstrap: true},
		"with one for the start, over HTTP": {transport: opampserver.HTTP, bootstrap: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, clients, starters := authority(t, "e2e servers"), authority(t, "e2e agents"), authority(t, "e2e starters")
			issuer := &signer{ca: clients}
			w := newWorld(t, options{transport: o.transport, server: opampserver.Settings{
				TLS: issuer.demanding(serverPair(t, ca), starters), Sign: issuer.sign,
			}})
			w.caFile = w.write("ca.pem", ca.PEM())
			layers := w.connections("{certificate: {request: true, remove_bootstrap: true}}")
			var starter testca.Pair
			if o.bootstrap {
				var err error
				starter, err = starters.Client("starter", testca.For(time.Hour))
				require.NoError(t, err)
				transport := "ws"
				if o.transport == opampserver.HTTP {
					transport = "http"
				}
				layers = append(layers, w.layer("starter.yaml", fmt.Sprintf(
					"extensions: {opamp: {server: {%s: {tls: {cert_file: %q, key_file: %q}}}}}", transport,
					w.write("starter.pem", starter.Cert), w.write("starter-key.pem", starter.Key))))
			}
			args := w.args(layers...)
			c := w.start(args)
			agent := w.managed()
			l := w.load(w.receiver)
			l.flows()

			keys := map[string]any{} // by their public part
			gather := func() {
				for path, found := range privateKeys(t, w.state) {
					info, err := os.Stat(path)
					if err == nil { // it may have been replaced
						assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
					}
					for _, key := range found {
						public, err := x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public())
						require.NoError(t, err)
						keys[string(public)] = key
					}
				}
			}
			// Each certificate is used, and the one before it is still valid then.
			var uses []opampserver.Attempt
			for n := range generations {
				use, err := w.server.WaitAttempt(patiently(t), time.Time{}, func(a opampserver.Attempt) bool {
					issued := issuer.certificates()
					return len(issued) > n && a.Certificate != nil && a.Certificate.SerialNumber.Cmp(issued[n].SerialNumber) == 0
				})
				require.NoErrorf(t, err, "use of certificate %d", n)
				uses = append(uses, use)
				gather()
				if n > 0 {
					assert.Less(t, use.Time, uses[n-1].Certificate.NotAfter, "certificate %d was late", n)
				}
			}
			_, err := w.server.WaitConnectionStatus(patiently(t), 0, w.lastConnections(agent.UID), connectionsApplied)
			require.NoError(t, err)
			if o.bootstrap {
				assert.NoFileExists(t, filepath.Join(w.dir, "starter.pem"))
				assert.NoFileExists(t, filepath.Join(w.dir, "starter-key.pem"))
			}
			l.flows()
			assert.Zero(t, c.count(logReload))
			assert.Empty(t, l.requireNothingLost().Refused, "the data path must refuse nothing")
			c.requireAlive()

			// No attempt without a certificate that was valid then, but the first ones.
			attempts := w.server.Attempts()
			started := slices.IndexFunc(attempts, func(a opampserver.Attempt) bool {
				return a.Certificate != nil && a.Certificate.Subject.CommonName != "starter"
			})
			require.Positive(t, started)
			for _, a := range attempts[:started] {
				assert.Equal(t, o.bootstrap, a.Certificate != nil, "the certificate for the start")
			}
			used := serials(attempts[started:])
			for _, a := range attempts[started:] {
				if assert.NotNil(t, a.Certificate, "an attempt without a certificate") {
					assert.NotEqual(t, "starter", a.Certificate.Subject.CommonName, "the certificate for the start is used no more")
					assert.Less(t, a.Time, a.Certificate.NotAfter)
				}
			}
			for _, f := range w.server.FailedHandshakes() {
				require.NoError(t, f.Err, "a handshake that failed")
			}
			// One connection at the start, and one for each certificate.
			if o.transport == opampserver.WebSocket {
				assert.LessOrEqual(t, w.server.Connections(), 1+len(used))
			} else {
				assert.LessOrEqual(t, w.server.HTTPConnections(), 1+len(used))
			}
			assert.Len(t, w.server.CertificateRequests(0), len(issuer.certificates()), "requests, none of them in vain")
			for _, leaf := range issuer.certificates() {
				assert.Contains(t, leaf.Subject.String()+strings.Join(leaf.DNSNames, " "), agent.UID, "the request names the agent")
			}

			// A restart: with the last certificate, not with that for the start.
			c.stop()
			begin := time.Now()
			from := w.server.Mark()
			c = w.start(args)
			again, err := w.server.WaitAttempt(patiently(t), begin, func(opampserver.Attempt) bool { return true })
			require.NoError(t, err)
			if assert.NotNil(t, again.Certificate) {
				assert.NotEqual(t, "starter", again.Certificate.Subject.CommonName)
			}
			w.isUp(from)
			gather()
			c.requireAlive()

			require.GreaterOrEqual(t, len(keys), 1, "the test proves nothing if it finds no key")
			all := frames(t, w.server)
			for _, key := range keys {
				for _, fragment := range fragments(t, key) {
					for _, frame := range all {
						assert.False(t, bytes.Contains(frame, []byte(fragment)), "a private key in a message")
					}
					assert.NotContains(t, c.Log(), fragment, "a private key in the log")
				}
			}
			for _, frame := range all {
				assert.False(t, bytes.Contains(frame, []byte("PRIVATE KEY")), "a private key in a message")
			}
		})
	}
}

// lastConnections is the hash of the connection settings that an agent was last
// sent.
func (w *world) lastConnections(uid string) []byte {
	w.t.Helper()
	for _, m := range slices.Backward(w.server.Messages()) {
		if o := m.Sent.GetConnectionSettings(); m.UID == uid && o != nil {
			return o.GetHash()
		}
	}
	require.Fail(w.t, "no connection settings were sent")
	return nil
}

// authorizations are the tokens of attempts in the order of their first use.
func authorizations(attempts []opampserver.Attempt, since time.Time) []string {
	var all []string
	for _, a := range attempts {
		if token := a.Header.Get("Authorization"); !a.Time.Before(since) && !slices.Contains(all, token) {
			all = append(all, token)
		}
	}
	return all
}

// The server gives the agent another token, while data flows.
//
// Conformance: 99, 107
func TestHeaderRotation(t *testing.T) {
	t.Parallel()
	const one, two, three = "Bearer token-one-4711", "Bearer token-two-4711", "Bearer token-three-4711"
	for _, transport := range []opampserver.Transport{opampserver.WebSocket, opampserver.HTTP} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{transport: transport})
			w.secrets = []string{one, two, three}
			w.server.Require("Authorization", one)
			layers := append(w.connections(""),
				w.layer("token.yaml", fmt.Sprintf("extensions: {opamp: {server: {%s: {headers: {Authorization: %q}}}}}", transport, one)))
			args := w.args(layers...)
			c := w.start(args)
			agent := w.managed()
			l := w.load(w.receiver)
			l.flows()

			former := one
			for _, token := range []string{two, three} {
				w.server.Require("Authorization", former, token)
				from := w.server.Mark()
				hash := w.server.OfferConnections("", connectionOffer(t, "opamp: {headers: {authorization: %q}}", token))
				_, err := w.server.WaitConnectionStatus(patiently(t), from, hash, connectionsApplied)
				require.NoError(t, err)
				w.server.Require("Authorization", token) // the former one is no longer good
				require.NoError(t, w.server.Drop(agent.UID))
				begin := time.Now()
				_, err = w.server.WaitAttempt(patiently(t), begin, func(a opampserver.Attempt) bool {
					return a.Status == 0 && a.Header.Get("Authorization") == token
				})
				require.NoError(t, err)
				former = token
			}
			assert.Equal(t, []string{one, two, three}, authorizations(w.server.Attempts(), time.Time{}))
			refused := slices.ContainsFunc(w.server.Attempts(), func(a opampserver.Attempt) bool { return a.Status != 0 })
			assert.False(t, refused, "an attempt was refused")
			assert.Zero(t, c.count(logReload))
			assert.Empty(t, l.requireNothingLost().Refused, "the data path must refuse nothing")

			c.stop() // which checks the log
			begin := time.Now()
			mark := w.server.Mark()
			w.start(args)
			_, err := w.server.WaitAttempt(patiently(t), begin, func(opampserver.Attempt) bool { return true })
			require.NoError(t, err)
			w.isUp(mark)
			assert.Equal(t, []string{three}, authorizations(w.server.Attempts(), begin), "after a restart")
		})
	}
}

// What an auth extension says counts more than what the server offers, unless it is
// allowed to.
func TestHeaderRotationWithAnAuthExtension(t *testing.T) {
	t.Parallel()
	const local, offered = "Bearer token-local-4711", "Bearer token-offered-4711"
	for _, transport := range []opampserver.Transport{opampserver.WebSocket, opampserver.HTTP} {
		for _, allowed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, allowed: %t", transport, allowed), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, options{transport: transport})
				w.secrets = []string{"token-local-4711", "token-offered-4711"}
				more := ""
				if allowed {
					more = "{policy: {connections: {may_replace_auth: true}}}"
				}
				w.start(w.args(append(w.connections(more), w.layer("auth.yaml", fmt.Sprintf(`
extensions:
  bearertokenauth: {token: token-local-4711}
  opamp: {server: {%s: {auth: bearertokenauth}}}
service: {extensions: [bearertokenauth, opamp]}
`, transport)))...))
				agent := w.managed()
				require.Equal(t, []string{local}, authorizations(w.server.Attempts(), time.Time{}))
				hash := w.server.OfferConnections("", connectionOffer(t, "opamp: {headers: {Authorization: %q, X-Tenant: blue}}", offered))
				status, err := w.server.WaitConnectionStatus(patiently(t), 0, hash, connectionsApplied, connectionsFailed)
				require.NoError(t, err)
				begin := time.Now()
				require.NoError(t, w.server.Drop(agent.UID))
				_, err = w.server.WaitAttempt(patiently(t), begin, func(opampserver.Attempt) bool { return true })
				require.NoError(t, err)
				if allowed {
					assert.Equal(t, connectionsApplied, status.Status, status.Message)
					assert.Equal(t, []string{offered}, authorizations(w.server.Attempts(), begin))
					return
				}
				assert.Equal(t, connectionsFailed, status.Status)
				assert.Contains(t, status.Message, "may_replace_auth")
				assert.Equal(t, []string{local}, authorizations(w.server.Attempts(), time.Time{}))
			})
		}
	}
}

// The server rotates the certificate and the token of an exporter while data flows:
// for the certificate nothing is reloaded, the token is rolled out, and no span that
// was accepted is lost.
//
// Conformance: 125
func TestExporterRotation(t *testing.T) {
	t.Parallel()
	const zero, one, two = "Bearer exporter-zero-4711", "Bearer exporter-one-4711", "Bearer exporter-two-4711"
	for _, exporter := range []string{"otlp_grpc", "otlp_http"} {
		t.Run(exporter, func(t *testing.T) {
			t.Parallel()
			ca := authority(t, "e2e backend")
			client := func() testca.Pair {
				pair, err := ca.Client("exporter", testca.For(time.Hour))
				require.NoError(t, err)
				return pair
			}
			w := newWorld(t, options{sink: sink.Settings{
				TLS: testca.ServerConfig(serverPair(t, ca), ca), ConnectionAge: 300 * time.Millisecond,
			}})
			w.secrets = []string{"exporter-one-4711", "exporter-two-4711"}
			w.sink.Require("authorization", zero)
			local := client()
			endpoint := "https://" + w.sink.Endpoint()
			if exporter == "otlp_http" {
				endpoint = w.sink.HTTPEndpoint()
			}
			caFile := w.write("backend-ca.pem", ca.PEM())
			certFile, keyFile := w.write("local.pem", local.Cert), w.write("local-key.pem", local.Key)
			args := w.args(append(w.connections(""), w.layer("exporter.yaml", fmt.Sprintf(`
exporters:
  %[1]s/backend:
    endpoint: ${opamp:#other_connections/backend/endpoint:-%[2]s}
    headers: {authorization: "${opamp:#other_connections/backend/headers/Authorization:-%[3]s}"}
    tls:
      ca_file: %[4]q
      cert_file: ${opamp:#other_connections/backend/tls/cert_file:-%[5]s}
      key_file: ${opamp:#other_connections/backend/tls/key_file:-%[6]s}
      reload_interval: 1s
    sending_queue: {enabled: true}
    retry_on_failure: {enabled: true, initial_interval: 100ms, max_interval: 1s}
service: {pipelines: {traces: {exporters: [%[1]s/backend]}}}
`, exporter, endpoint, zero, caFile, certFile, keyFile)))...)
			c := w.start(args)
			agent := w.managed()
			assert.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_AcceptsOtherConnectionSettings))
			l := w.load(w.receiver)
			l.flows()
			credentials := func(token string, pair testca.Pair) func(sink.Use) bool {
				return func(u sink.Use) bool {
					return u.Authorization == token && u.Serial == pair.Leaf.SerialNumber.String() && !u.Refused
				}
			}
			uses := func(token string, pair testca.Pair) {
				t.Helper()
				_, err := w.sink.WaitUse(patiently(t), time.Now(), credentials(token, pair))
				require.NoError(t, err)
			}
			uses(zero, local)
			offer := func(token string, pair testca.Pair) {
				t.Helper()
				from := w.server.Mark()
				hash := w.server.OfferConnections("", connectionOffer(t,
					"other_connections: {backend: {endpoint: %q, headers: {Authorization: %q}, certificate: {cert: %q, key: %q}}}",
					endpoint, token, pair.Cert, pair.Key))
				status, err := w.server.WaitConnectionStatus(patiently(t), from, hash, connectionsApplied, connectionsFailed)
				require.NoError(t, err)
				require.Equal(t, connectionsApplied, status.Status, status.Message)
			}

			// Everything at once.
			first := client()
			w.sink.Require("authorization", zero, one)
			offer(one, first)
			uses(one, first)
			assert.Equal(t, 1, c.count(logReload), "reloads after the first offer")
			l.flows()

			// The certificate alone.
			second := client()
			offer(one, second)
			uses(one, second)
			assert.Equal(t, 1, c.count(logReload), "a certificate needs no reload")
			l.flows()

			// The token alone.
			w.sink.Require("authorization", one, two)
			offer(two, second)
			uses(two, second)
			assert.Equal(t, 2, c.count(logReload), "a token is rolled out")
			w.sink.Require("authorization", two)
			l.flows()
			l.requireNothingLost()

			for use, period := range w.sink.Uses() {
				assert.Falsef(t, use.Refused, "%d requests were refused, with %q", period.Count, use.Authorization)
			}
			agent, _ = w.server.Agent(agent.UID)
			assert.Contains(t, agent.EffectiveConfig[""], "${opamp:#other_connections/backend/endpoint", "references are shown as such")
			for _, m := range w.server.Messages() {
				data, err := proto.Marshal(m.Received)
				require.NoError(t, err)
				for _, secret := range w.secrets {
					assert.Falsef(t, reveals(string(data), secret), "a secret in %s", m.Summary())
				}
			}
			for path := range privateKeys(t, w.state) {
				info, err := os.Stat(path)
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
			}

			// After a restart the exporter has what it had, and the server is not needed
			// for that.
			c.stop()
			w.server.Refuse(http.StatusServiceUnavailable, nil)
			w.start(args)
			l = w.load(w.receiver)
			l.flows()
			uses(two, second)
		})
	}
}

func TestPrivateKeysAreFound(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir()}
	ca := authority(t, "e2e CA")
	pair, err := ca.Client("agent", testca.For(time.Hour))
	require.NoError(t, err)
	w.write("key.pem", pair.Key)
	w.write("cert.pem", pair.Cert)
	encoded := base64.StdEncoding.EncodeToString(pair.Key)
	w.write("in base64.json", fmt.Appendf(nil, `{"key":%q}`, encoded))
	w.write("as text.json", fmt.Appendf(nil, `{"key":%q}`, pair.Key))
	found := privateKeys(t, w.dir)
	require.Len(t, found, 3)
	key := found[w.dir+"/key.pem"][0]
	for path, keys := range found {
		require.Len(t, keys, 1, path)
		assert.Equal(t, key, keys[0], path)
	}
	block, _ := pem.Decode(pair.Key)
	for _, frame := range []string{string(pair.Key), string(block.Bytes)} {
		hit := slices.ContainsFunc(fragments(t, key), func(fragment string) bool { return strings.Contains(frame, fragment) })
		assert.True(t, hit)
	}
	for _, fragment := range fragments(t, key) {
		assert.NotContains(t, string(pair.Cert), fragment)
	}
}

// The server of these tests does what they rely on.
func TestSignerDemandsItsCertificates(t *testing.T) {
	t.Parallel()
	ca, starters := authority(t, "e2e servers"), authority(t, "e2e starters")
	issuer := &signer{ca: authority(t, "e2e agents")}
	s, err := opampserver.Start(opampserver.Settings{TLS: issuer.demanding(serverPair(t, ca), starters), Sign: issuer.sign})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop(cleanupContext(t))) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "agent"}}, key)
	require.NoError(t, err)
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})

	uid := uuid.New()
	report := func(certificates ...tls.Certificate) (*protobufs.ConnectionSettingsOffers, error) {
		body, err := proto.Marshal(&protobufs.AgentToServer{
			InstanceUid: uid[:], AgentDescription: &protobufs.AgentDescription{},
			Capabilities: uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings),
			ConnectionSettingsRequest: &protobufs.ConnectionSettingsRequest{Opamp: &protobufs.OpAMPConnectionSettingsRequest{
				CertificateRequest: &protobufs.CertificateRequest{Csr: csr},
			}},
		})
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(patiently(t), http.MethodPost, s.HTTPURL(), bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-protobuf")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: ca.Pool(), Certificates: certificates,
		}}}
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close() //nolint:errcheck // it is only read
		content, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		var answer protobufs.ServerToAgent
		require.NoError(t, proto.Unmarshal(content, &answer))
		return answer.GetConnectionSettings(), nil
	}
	starter, err := starters.Client("starter", testca.For(time.Hour))
	require.NoError(t, err)
	offer, err := report(starter.TLS())
	require.NoError(t, err)
	assert.Equal(t, s.CertificateRequests(0)[0].CSR, csr)
	_, err = report()
	require.Error(t, err, "without a certificate, once there is one")
	_, err = report(starter.TLS())
	require.Error(t, err, "with the certificate for the start, once there is another")
	block, _ := pem.Decode(offer.GetOpamp().GetCertificate().GetCert())
	_, err = report(tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key})
	require.NoError(t, err)
	issued := issuer.certificates()
	require.Len(t, issued, 2)
	assert.WithinDuration(t, time.Now().Add(certificateLifetime), issued[0].NotAfter, 2*time.Second)
	assert.Equal(t, []string{starter.Leaf.SerialNumber.String(), issued[0].SerialNumber.String()}, serials(s.Attempts()))
	eventually(t, func() bool { return len(s.FailedHandshakes()) == 2 }, "the handshakes that failed must be recorded")
}
