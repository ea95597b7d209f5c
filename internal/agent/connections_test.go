package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

const (
	settingsApplying = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING
	settingsApplied  = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED
	settingsFailed   = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED
)

// accepting makes an extension accept all kinds of connection settings.
func accepting(t *testing.T) func(*agent.ExtensionSettings) {
	t.Helper()
	rules := policy.DefaultSettings()
	rules.Connections.Hosts.Allow = []string{"127.0.0.1", "*.example.com"}
	p, err := policy.New(rules)
	require.NoError(t, err)
	return func(set *agent.ExtensionSettings) {
		set.Policy = p
		set.Connections = agent.Connections{
			OpAMP: true, Others: true,
			Own:           map[connsettings.Signal]bool{connsettings.Metrics: true, connsettings.Traces: true, connsettings.Logs: true},
			VerifyTimeout: waitTime,
			Local:         "local",
		}
	}
}

// newAcceptingHost returns a host that accepts all kinds of connection settings. What
// it is started with goes to running.
func newAcceptingHost(t *testing.T, s *opampServer, dir string) (h *host, running chan *agent.ExtensionLease) {
	t.Helper()
	h = newHost(t, s, dir)
	h.change = accepting(t)
	h.log = zap.NewNop()
	running = make(chan *agent.ExtensionLease, 100)
	h.started = func(_ map[string]any, e *agent.ExtensionLease) { running <- e }
	return h, running
}

// again returns the host of the next process.
func (h *host) again() (next *host, running chan *agent.ExtensionLease) {
	h.t.Helper()
	h.end()
	next, running = newAcceptingHost(h.t, h.server, h.dir)
	next.name, next.change, next.log = h.name, h.change, h.log
	return next, running
}

// also adds a change of settings.
func (h *host) also(change func(*agent.ExtensionSettings)) {
	former := h.change
	h.change = func(set *agent.ExtensionSettings) {
		former(set)
		change(set)
	}
}

// folderOf is the state folder of a host.
func folderOf(h *host) string { return newOperator(h).folder }

// offers pushes connection settings.
func (s *opampServer) offers(t *testing.T, hash string, offer *protobufs.ConnectionSettingsOffers) {
	t.Helper()
	offer.Hash = []byte(hash)
	var conns []types.Connection
	s.wait(t, "an agent to make an offer to", func() bool {
		conns = slices.Collect(maps.Keys(s.conns))
		return len(conns) == 1 && s.health.GetStatus() != ""
	})
	for _, c := range conns {
		require.NoError(t, c.Send(t.Context(), &protobufs.ServerToAgent{ConnectionSettings: offer}))
	}
}

// waitSettings waits for the status of connection settings.
func (s *opampServer) waitSettings(t *testing.T, hash string, state protobufs.ConnectionSettingsStatuses) *protobufs.ConnectionSettingsStatus {
	t.Helper()
	var last *protobufs.ConnectionSettingsStatus
	s.wait(t, fmt.Sprintf("%s of settings %q", state, hash), func() bool {
		if len(s.settings) == 0 {
			return false
		}
		last = s.settings[len(s.settings)-1]
		return string(last.GetLastConnectionSettingsHash()) == hash && last.GetStatus() == state
	})
	return last
}

func opampOffer(url string) *protobufs.ConnectionSettingsOffers {
	return &protobufs.ConnectionSettingsOffers{Opamp: &protobufs.OpAMPConnectionSettings{DestinationEndpoint: url}}
}

func otherOffer(name string, c *protobufs.OtherConnectionSettings) *protobufs.ConnectionSettingsOffers {
	return &protobufs.ConnectionSettingsOffers{OtherConnections: map[string]*protobufs.OtherConnectionSettings{name: c}}
}

func headers(key, value string) *protobufs.Headers {
	return &protobufs.Headers{Headers: []*protobufs.Header{{Key: key, Value: value}}}
}

// issuer is an authority of tests.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return issuer{t, cert, key}
}

func (i issuer) issue(name string, from, to time.Time, public any) []byte {
	i.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(i.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
	}, i.cert, public, i.key)
	require.NoError(i.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pair returns a certificate with its key.
func (i issuer) pair() *protobufs.TLSCertificate {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(i.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(i.t, err)
	return &protobufs.TLSCertificate{
		Cert:       i.issue("client", time.Now().Add(-time.Minute), time.Now().Add(time.Hour), key.Public()),
		PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

// answering returns what answers certificate requests; name is what the server calls
// agents, empty for what they asked for.
func (i issuer) answering(name string, from, to time.Duration) func([]byte) *protobufs.ConnectionSettingsOffers {
	n := 0
	return func(request []byte) *protobufs.ConnectionSettingsOffers {
		n++
		called := name
		block, _ := pem.Decode(request)
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			i.t.Errorf("reading a request: %v", err) // not on the test's goroutine
			return nil
		}
		if called == "" {
			called = csr.Subject.CommonName
		}
		return &protobufs.ConnectionSettingsOffers{
			Hash: fmt.Appendf(nil, "certificate %d", n),
			Opamp: &protobufs.OpAMPConnectionSettings{Certificate: &protobufs.TLSCertificate{
				Cert: i.issue(called, time.Now().Add(from), time.Now().Add(to), csr.PublicKey),
			}},
		}
	}
}

// commonName is that of a request.
func commonName(t *testing.T, request []byte) string {
	t.Helper()
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(t, err)
	return csr.Subject.CommonName
}

// seesSettings waits until the state file has a status of connection settings. It is
// written after the server was told.
func (o operator) seesSettings(hash, state string) {
	o.t.Helper()
	require.Eventually(o.t, func() bool {
		shown, _ := o.sees()["connection_settings"].(map[string]any)
		return shown["hash"] == hash && shown["state"] == state
	}, waitTime, tick)
}

// value looks up what the host was given.
func (h *host) value(path string) string {
	h.t.Helper()
	value, ok, err := h.provider.Value(h.t.Context(), path)
	require.NoError(h.t, err)
	if !ok {
		return ""
	}
	return value
}

// waitValue waits until a value is what it should be.
func (h *host) waitValue(path, want string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.value(path) == want }, waitTime, time.Millisecond, "%s must become %q", path, want)
}

// What was offered holds over a restart, until what is local changes, or an operator
// wants what is local.
//
// Conformance: 92, 96
func TestOfferedConnection(t *testing.T) {
	t.Parallel()
	for how, drop := range map[string]func(h *host, o operator){
		"the local settings change": func(h *host, _ operator) {
			h.also(func(set *agent.ExtensionSettings) { set.Connections.Local = "changed" })
		},
		"the consent is withdrawn": func(h *host, _ operator) {
			h.also(func(set *agent.ExtensionSettings) { set.Connections.OpAMP = false })
		},
		"an operator": func(_ *host, o operator) { o.asks("clear-connection", "") },
	} {
		for _, reload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reload: %t", how, reload), func(t *testing.T) {
				t.Parallel()
				s, other := startServer(t), startServer(t)
				h, running := newAcceptingHost(t, s, t.TempDir())
				sessions := 0
				h.sameSession = func() any { sessions++; return sessions }
				h.start()
				receive(t, running)
				o := newOperator(h)
				s.wait(t, "health", func() bool { return s.health != nil })
				s.offers(t, "h1", opampOffer(other.url))
				other.waitSettings(t, "h1", settingsApplied)
				s.mu.Lock()
				assert.Contains(t, s.comings, "goodbye")
				assert.Equal(t, settingsApplying, s.settings[len(s.settings)-1].GetStatus())
				s.mu.Unlock()

				next, running := h.again()
				next.sameSession = h.sameSession
				s.mu.Lock()
				connections := s.connections
				s.mu.Unlock()
				next.start()
				receive(t, running)
				other.wait(t, "the next process", func() bool { return other.connections == 2 })
				s.mu.Lock()
				assert.Equal(t, connections, s.connections)
				s.mu.Unlock()

				if !reload {
					former := next
					former.end()
					drop(former, o)
					next, running = former.again()
					next.sameSession = h.sameSession
					next.start()
					receive(t, running)
				} else {
					drop(next, o)
					next.reload <- struct{}{}
					receive(t, running)
				}
				s.wait(t, "the agent to come back", func() bool { return s.connections == connections+1 })
				if how == "an operator" {
					history := fmt.Sprint(o.sees()["history"])
					assert.Contains(t, history, "connection settings dropped")
					assert.NoFileExists(t, filepath.Join(o.folder, "requests", "clear-connection"))
				}
				// What it was can be offered again.
				if how != "the consent is withdrawn" {
					s.offers(t, "h1", opampOffer(other.url))
					other.wait(t, "the agent", func() bool { return other.connections == 3 })
				}
			})
		}
	}
}

// An offer of which a part is refused changes nothing: neither the files nor what
// runs.
func TestRefusedOfferChangesNothing(t *testing.T) {
	t.Parallel()
	s, i := startServer(t), newIssuer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	first := i.pair()
	s.offers(t, "h1", otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1", Certificate: first}))
	s.waitSettings(t, "h1", settingsApplied)
	receive(t, running)
	file := h.value("other_connections/backend/tls/cert_file")
	require.FileExists(t, file)
	before := readFolder(t, filepath.Dir(file))

	second := otherOffer("backend", &protobufs.OtherConnectionSettings{Certificate: i.pair()})
	second.OwnLogs = &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://elsewhere.example.net/v1/logs"}
	s.offers(t, "h2", second)
	status := s.waitSettings(t, "h2", settingsFailed)
	assert.Contains(t, status.GetErrorMessage(), "connections::hosts")
	assert.Equal(t, before, readFolder(t, filepath.Dir(file)))
	assert.Empty(t, running)

	// Also for the next process, which restores the files from the record.
	next, running := h.again()
	require.NoError(t, os.RemoveAll(filepath.Dir(file)))
	next.start()
	receive(t, running)
	assert.Equal(t, before, readFolder(t, filepath.Dir(file)))

	// The client tells each time that the offer is being applied.
	s.wait(t, "health", func() bool { return s.connections == 2 && len(s.conns) == 1 })
	second.GetOtherConnections()["backend"].Certificate = i.pair()
	s.offers(t, "h3", second)
	s.waitSettings(t, "h3", settingsFailed)
	s.offers(t, "h2", second)
	s.waitSettings(t, "h2", settingsFailed)
}

// A certificate alone is exchanged in its file. With anything else it is part of a
// rollout, and comes back with its rollback.
//
// Conformance: 125
func TestCertificateOfAnExporter(t *testing.T) {
	t.Parallel()
	s, i := startServer(t), newIssuer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	bad := make(chan struct{}, 1)
	h.dryRun = func(context.Context, preflight.Settings) preflight.Outcome {
		select {
		case <-bad:
			return preflight.Outcome{Reason: "it is no good"}
		default:
			return preflight.Outcome{}
		}
	}
	h.start()
	receive(t, running)
	offer := func(hash, endpoint string, pair *protobufs.TLSCertificate) {
		t.Helper()
		s.offers(t, hash, otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: endpoint, Certificate: pair}))
	}
	const one, two = "https://127.0.0.1:1", "https://127.0.0.1:2"
	offer("h1", one, i.pair())
	s.waitSettings(t, "h1", settingsApplied)
	receive(t, running)
	file := h.value("other_connections/backend/tls/cert_file")
	assert.Equal(t, file, h.value("other_connections/backend/tls/key_file"))

	pair := i.pair()
	offer("h2", "", pair)
	s.waitSettings(t, "h2", settingsApplied)
	assert.Empty(t, running, "nothing is reloaded")
	assert.Equal(t, file, h.value("other_connections/backend/tls/cert_file"))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(pair.GetCert())+string(pair.GetPrivateKey()), string(content))
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	bad <- struct{}{}
	offer("h3", two, i.pair())
	s.waitSettings(t, "h3", settingsFailed)
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, content, again, "what runs has what it had")

	offer("h4", two, i.pair())
	s.waitSettings(t, "h4", settingsApplied)
	receive(t, running)
	assert.Equal(t, two, h.value("other_connections/backend/endpoint"))
	other := h.value("other_connections/backend/tls/cert_file")
	assert.NotEqual(t, file, other)
	assert.FileExists(t, other)

	// An operator goes back: the former file is still there.
	newOperator(h).asks("go-back", "")
	receive(t, running)
	assert.Equal(t, file, h.value("other_connections/backend/tls/cert_file"))
	again, err = os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, content, again)
	status := s.waitSettings(t, "h4", settingsFailed)
	assert.Contains(t, status.GetErrorMessage(), "an operator")

	// Another connection takes the place of this one. What can still be run keeps its
	// files, five steps back; what is older goes.
	s.offers(t, "h5", otherOffer("another", &protobufs.OtherConnectionSettings{DestinationEndpoint: two}))
	s.waitSettings(t, "h5", settingsApplied)
	receive(t, running)
	assert.FileExists(t, file)
	for n := range 6 {
		hash := fmt.Sprintf("i%d", n)
		s.offers(t, hash, otherOffer("another", &protobufs.OtherConnectionSettings{DestinationEndpoint: fmt.Sprintf("https://127.0.0.1:%d", 10+n)}))
		s.waitSettings(t, hash, settingsApplied)
		receive(t, running)
	}
	require.Eventually(t, func() bool { return len(readFolder(t, filepath.Dir(file))) == 0 }, waitTime, tick, "files that nothing refers to")
}

// What is judged is what would be used: parts of two offers, each of which is allowed,
// must not come to something that is not.
func TestPartsOfOffersAreJudgedTogether(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	s.offers(t, "h1", otherOffer("backend", &protobufs.OtherConnectionSettings{
		DestinationEndpoint: "https://127.0.0.1:1", Tls: &protobufs.TLSConnectionSettings{InsecureSkipVerify: true},
	}))
	s.waitSettings(t, "h1", settingsApplied)
	receive(t, running)
	s.offers(t, "h2", otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://backend.example.com"}))
	status := s.waitSettings(t, "h2", settingsFailed)
	assert.Contains(t, status.GetErrorMessage(), "connections::may_weaken_tls")
	s.offers(t, "h3", otherOffer("backend", &protobufs.OtherConnectionSettings{
		DestinationEndpoint: "https://backend.example.com", Tls: &protobufs.TLSConnectionSettings{},
	}))
	s.waitSettings(t, "h3", settingsApplied)
}

// An offer that is refused does not undo one before it that is still being worked on.
func TestRefusedOfferAndTheOneBefore(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	checking, goOn := make(chan struct{}, 10), make(chan struct{}, 10)
	h.dryRun = func(ctx context.Context, _ preflight.Settings) preflight.Outcome {
		checking <- struct{}{}
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return preflight.Outcome{}
	}
	h.start()
	receive(t, running)
	own := func(endpoint string) *protobufs.TelemetryConnectionSettings {
		return &protobufs.TelemetryConnectionSettings{DestinationEndpoint: endpoint}
	}
	s.offers(t, "h1", &protobufs.ConnectionSettingsOffers{OwnMetrics: own("https://127.0.0.1:1/v1/metrics")})
	receive(t, checking)
	s.offers(t, "h2", &protobufs.ConnectionSettingsOffers{OwnTraces: own("https://elsewhere.example.net/v1/traces")})
	s.waitSettings(t, "h2", settingsFailed)
	s.offers(t, "h3", &protobufs.ConnectionSettingsOffers{OwnLogs: own("https://127.0.0.1:1/v1/logs")})
	newOperator(h).seesSettings("6833", "applying") // the client has told that by itself before

	// Also over a restart.
	next, running := h.again()
	next.start()
	receive(t, running)
	s.waitSettings(t, "h3", settingsApplied)
	receive(t, running)
	assert.Equal(t, "https://127.0.0.1:1/v1/metrics", next.value("own_metrics/endpoint"))
	assert.Equal(t, "https://127.0.0.1:1/v1/logs", next.value("own_logs/endpoint"))
	assert.Empty(t, next.value("own_traces/endpoint"))
}

// An offer of parts that are not accepted leads to nothing, and is done with.
//
// Conformance: 89
func TestOfferOfWhatIsNotAccepted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.also(func(set *agent.ExtensionSettings) { set.Connections.OpAMP = false })
	h.start()
	receive(t, running)
	s.offers(t, "h1", opampOffer("ws://127.0.0.1:1"))
	s.waitSettings(t, "h1", settingsApplied)
	s.mu.Lock()
	assert.Equal(t, 1, s.connections)
	s.mu.Unlock()
}

// A request for a certificate may be lost, or take its time: it is repeated, with the
// same key.
//
// Conformance: 110
func TestCertificateRequestIsRepeated(t *testing.T) {
	t.Parallel()
	s, i := startServer(t), newIssuer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.also(func(set *agent.ExtensionSettings) { set.Connections.Certificate.Request = true })
	h.start()
	receive(t, running)
	s.wait(t, "a request", func() bool { return len(s.requests) == 1 })
	began := time.Now()
	s.mu.Lock()
	s.sign = i.answering("", -time.Minute, time.Hour)
	s.mu.Unlock()
	s.wait(t, "another request", func() bool { return len(s.requests) == 2 })
	assert.Greater(t, time.Since(began), 4*time.Second, "a pause of five seconds")
	s.waitSettings(t, "certificate 1", settingsApplied)
	var keys []any
	for _, request := range s.requests {
		block, _ := pem.Decode(request)
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		require.NoError(t, err)
		keys = append(keys, csr.PublicKey)
	}
	assert.Equal(t, keys[0], keys[1])
}

// Values that failed for a reason that is gone are tried again when they are offered
// again; others are not.
func TestFailedValuesAreOfferedAgain(t *testing.T) {
	t.Parallel()
	for _, transient := range []bool{true, false} {
		t.Run(fmt.Sprintf("transient: %t", transient), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			h, running := newAcceptingHost(t, s, t.TempDir())
			h.dryRun = func(context.Context, preflight.Settings) preflight.Outcome {
				return preflight.Outcome{Reason: "the dry run failed", Transient: transient}
			}
			h.start()
			receive(t, running)
			offer := otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1"})
			s.offers(t, "h1", offer)
			status := s.waitSettings(t, "h1", settingsFailed)
			assert.Contains(t, status.GetErrorMessage(), "configuration: the dry run failed")
			s.mu.Lock()
			s.settingsOffer = offer
			s.mu.Unlock()
			next, running := h.again()
			next.start()
			receive(t, running)
			s.wait(t, "health", func() bool { return s.connections == 2 && s.health != nil })
			if transient {
				s.waitSettings(t, "h1", settingsApplied)
				return
			}
			s.push(t, "h2", "receivers: {a: {x: 1}}")
			s.waitStatus(t, "h2", applied)
			s.waitSettings(t, "h1", settingsFailed)
		})
	}
}

// The values of an offer that was being worked on are lost: nothing waits for them for
// ever, and they are taken when they come again.
func TestLostValues(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	checking := make(chan struct{}, 10)
	h.dryRun = func(ctx context.Context, _ preflight.Settings) preflight.Outcome {
		checking <- struct{}{}
		<-ctx.Done()
		return preflight.Outcome{Reason: "the process ends", Transient: true}
	}
	h.start()
	receive(t, running)
	offer := otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1"})
	s.offers(t, "h1", offer)
	receive(t, checking)
	folder := folderOf(h)
	next, running := h.again()
	bodies, err := os.ReadDir(filepath.Join(folder, "bodies"))
	require.NoError(t, err)
	require.Len(t, bodies, 1)
	body := filepath.Join(folder, "bodies", bodies[0].Name())
	require.NoError(t, os.WriteFile(body, []byte("x"), 0o600))
	s.mu.Lock()
	s.settings, s.health = nil, nil
	s.mu.Unlock()
	next.start()
	receive(t, running)
	s.wait(t, "health", func() bool { return s.health != nil && len(s.conns) == 1 })
	s.mu.Lock()
	assert.Empty(t, s.settings)
	s.mu.Unlock()
	assert.FileExists(t, body+".corrupt.1")
	s.offers(t, "h1", offer)
	s.waitSettings(t, "h1", settingsApplied)
}

// One damaged generation of the record does not take the agent away from where the
// server has sent it.
func TestDamagedRecordOfConnections(t *testing.T) {
	t.Parallel()
	s, other := startServer(t), startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	s.offers(t, "h1", &protobufs.ConnectionSettingsOffers{Opamp: &protobufs.OpAMPConnectionSettings{DestinationEndpoint: other.url}})
	other.waitSettings(t, "h1", settingsApplied)
	record := filepath.Join(folderOf(h), "connection_settings")
	// As if a process had ended right after it moved a damaged one aside.
	next, running := h.again()
	require.NoError(t, os.Remove(record))
	other.mu.Lock()
	other.settings = nil
	other.mu.Unlock()
	next.start()
	receive(t, running)
	other.waitSettings(t, "h1", settingsApplied)

	next, running = next.again()
	require.NoError(t, os.WriteFile(record, []byte("x"), 0o600))
	other.mu.Lock()
	other.settings = nil
	other.mu.Unlock()
	next.start()
	receive(t, running)
	other.waitSettings(t, "h1", settingsApplied) // the candidate of that generation, tried once more
	assert.FileExists(t, record+".corrupt.1")
}

// What is not accepted any more is withdrawn from what runs, and what is accepted once
// more is taken from the same offer.
func TestConsentChanges(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	offer := otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1"})
	s.offers(t, "h1", offer)
	s.waitSettings(t, "h1", settingsApplied)
	receive(t, running)
	assert.Equal(t, "https://127.0.0.1:1", h.value("other_connections/backend/endpoint"))

	accept := func(others bool) *host {
		next, running := h.again()
		next.also(func(set *agent.ExtensionSettings) { set.Connections.Others = others; set.Connections.OpAMP = true })
		s.mu.Lock()
		s.settings = nil
		s.mu.Unlock()
		next.start()
		receive(t, running)
		h = next
		return next
	}
	next := accept(false)
	next.waitValue("other_connections/backend/endpoint", "")
	next = accept(true)
	s.offers(t, "h1", offer)
	s.waitSettings(t, "h1", settingsApplied)
	next.waitValue("other_connections/backend/endpoint", "https://127.0.0.1:1")
}

// Without its record the agent uses the local settings of the connection, and goes on
// with the values. A record that cannot be read is left alone.
func TestConnectionsWithoutARecord(t *testing.T) {
	t.Parallel()
	const later = "otelcol-opamp-state 2 sha256 "
	for kind, content := range map[string]string{
		"damaged":            "otelcol-opamp-state 1 sha256 0123\nx",
		"truncated":          "",
		"of a later version": fmt.Sprintf("%s%x\nx", later, sha256.Sum256([]byte(later+"x"))),
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, other, i := startServer(t), startServer(t), newIssuer(t)
			h, running := newAcceptingHost(t, s, t.TempDir())
			h.start()
			receive(t, running)
			offer := otherOffer("backend", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1", Certificate: i.pair()})
			offer.Opamp = &protobufs.OpAMPConnectionSettings{DestinationEndpoint: other.url}
			s.offers(t, "h1", offer)
			other.waitSettings(t, "h1", settingsApplied)
			receive(t, running)
			file := h.value("other_connections/backend/tls/cert_file")
			before := readFolder(t, filepath.Dir(file))
			record := filepath.Join(folderOf(h), "connection_settings")

			next, running := h.again()
			require.NoError(t, os.WriteFile(record, []byte(content), 0o600))
			require.NoError(t, os.Remove(record+".previous"))
			core, logged := observer.New(zap.WarnLevel)
			next.log = zap.New(core)
			s.mu.Lock()
			connections := s.connections
			s.mu.Unlock()
			next.start()
			receive(t, running)
			s.wait(t, "the agent at the local endpoint", func() bool { return s.connections == connections+1 && s.caps != 0 && len(s.conns) == 1 })
			assert.Equal(t, "https://127.0.0.1:1", next.value("other_connections/backend/endpoint"))
			accepts := protobufs.AgentCapabilities_AgentCapabilities_AcceptsOtherConnectionSettings
			if kind == "of a later version" {
				s.wait(t, "capabilities", func() bool { return s.caps&uint64(accepts) == 0 })
				data, err := os.ReadFile(record)
				require.NoError(t, err)
				assert.Equal(t, content, string(data))
				assert.NotZero(t, logged.FilterMessageSnippet("cannot be read: the local settings are used").Len())
				return
			}
			assert.NotZero(t, logged.FilterMessageSnippet("What the server offered of connections is lost").Len())
			assert.FileExists(t, record+".corrupt.1")
			// A connection more: the files of the one before are still needed.
			more := otherOffer("another", &protobufs.OtherConnectionSettings{DestinationEndpoint: "https://127.0.0.1:2"})
			more.OtherConnections["backend"] = &protobufs.OtherConnectionSettings{}
			s.offers(t, "h2", more)
			s.waitSettings(t, "h2", settingsApplied)
			receive(t, running)
			assert.Equal(t, file, next.value("other_connections/backend/tls/cert_file"))
			assert.Equal(t, before, readFolder(t, filepath.Dir(file)))
		})
	}
}

// The server gives the agent another instance UID: it requests a certificate for that,
// and its own telemetry says who it is now.
//
// Conformance: 115, 121
func TestIdentityOfCertificateAndOwnTelemetry(t *testing.T) {
	t.Parallel()
	s, i := startServer(t), newIssuer(t)
	s.sign = i.answering("", -time.Minute, time.Hour)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.also(func(set *agent.ExtensionSettings) { set.Connections.Certificate.Request = true })
	confs := make(chan map[string]any, 20)
	h.started = func(conf map[string]any, e *agent.ExtensionLease) {
		confs <- conf
		running <- e
	}
	h.start()
	receive(t, running)
	require.Empty(t, receive(t, confs))
	s.waitSettings(t, "certificate 1", settingsApplied)
	own := &protobufs.ConnectionSettingsOffers{OwnMetrics: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1/v1/metrics"}}
	s.offers(t, "h1", own)
	s.waitSettings(t, "h1", settingsApplied)
	s.mu.Lock()
	require.Len(t, s.requests, 1)
	uid := commonName(t, s.requests[0])
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	assert.Contains(t, fmt.Sprint(receive(t, confs)), uid)

	given := uuid.Must(uuid.NewV7())
	for _, c := range conns {
		require.NoError(t, c.Send(t.Context(), &protobufs.ServerToAgent{AgentIdentification: &protobufs.AgentIdentification{NewInstanceUid: given[:]}}))
	}
	conf := fmt.Sprint(receive(t, confs))
	assert.Contains(t, conf, given.String())
	assert.NotContains(t, conf, uid)
	s.wait(t, "the request for another certificate", func() bool { return len(s.requests) == 2 })
	s.mu.Lock()
	assert.Equal(t, given.String(), commonName(t, s.requests[1]))
	s.mu.Unlock()
	s.waitSettings(t, "certificate 2", settingsApplied)
	assert.Empty(t, confs, "it is done once")
}

// After an upgrade own telemetry says what the description says.
//
// Conformance: 121
func TestDescriptionThatChangedWithAnUpgrade(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h, running := newAcceptingHost(t, s, t.TempDir())
	version := "1"
	h.also(func(set *agent.ExtensionSettings) {
		now := version
		set.Describe = func(uuid.UUID) session.Description {
			return session.Description{Identifying: map[string]any{"service.version": "version " + now}}
		}
	})
	h.start()
	receive(t, running)
	s.offers(t, "h1", &protobufs.ConnectionSettingsOffers{OwnLogs: &protobufs.TelemetryConnectionSettings{DestinationEndpoint: "https://127.0.0.1:1/v1/logs"}})
	s.waitSettings(t, "h1", settingsApplied)
	version = "2"
	next, _ := h.again()
	confs := make(chan map[string]any, 20)
	next.started = func(conf map[string]any, _ *agent.ExtensionLease) { confs <- conf }
	next.start()
	assert.Contains(t, fmt.Sprint(receive(t, confs)), "version 1")
	assert.Contains(t, fmt.Sprint(receive(t, confs)), "version 2")
	s.waitSettings(t, "h1", settingsApplied)
	assert.Empty(t, confs)
}

// A server may issue certificates that call the agent otherwise, or that are old when
// they come: that is no reason to ask for one after the other.
//
// Conformance: 114
func TestCertificatesAreNotRequestedInALoop(t *testing.T) {
	t.Parallel()
	for name, sign := range map[string]struct {
		called   string
		from, to time.Duration
	}{
		"another name": {"the agent", -time.Minute, time.Hour},
		"an old one":   {"", -time.Hour, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, i := startServer(t), newIssuer(t)
			s.sign = i.answering(sign.called, sign.from, sign.to)
			h, running := newAcceptingHost(t, s, t.TempDir())
			h.also(func(set *agent.ExtensionSettings) { set.Connections.Certificate.Request = true })
			h.start()
			receive(t, running)
			s.waitSettings(t, "certificate 1", settingsApplied)
			deadline := time.After(3 * time.Second) // the least pause is one second
			for waiting := true; waiting; {
				select {
				case <-s.changed:
				case <-deadline:
					waiting = false
				}
			}
			s.mu.Lock()
			assert.Len(t, s.requests, 1)
			s.mu.Unlock()

			// The server may repeat what it gave, with other parts and without the key.
			offer := i.answering(sign.called, sign.from, sign.to)(s.requests[0])
			offer.Opamp.Headers = headers("X-Tenant", "blue")
			s.offers(t, "h1", offer)
			s.waitSettings(t, "h1", settingsApplied)
		})
	}
}

// A certificate that has proved itself takes the place of the one with which the agent
// came, and is not presented any more when it has expired: what is local may let the
// agent in, and brings it the next one.
//
// Conformance: 107, 116
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	roots := x509.NewCertPool()
	s := startServerWith(t, "wss", func(web *httptest.Server) {
		web.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
		web.StartTLS()
		roots.AddCert(web.Certificate())
	})
	const lifetime = 3 * time.Second
	first := i.answering("first", -time.Second, lifetime)
	s.sign = func(request []byte) *protobufs.ConnectionSettingsOffers {
		s.sign = nil // under the server's lock
		return first(request)
	}
	h, running := newAcceptingHost(t, s, t.TempDir())
	var bootstrap []string
	for _, name := range []string{"cert.pem", "key.pem"} {
		bootstrap = append(bootstrap, filepath.Join(t.TempDir(), name))
		require.NoError(t, os.WriteFile(bootstrap[len(bootstrap)-1], nil, 0o600))
	}
	h.also(func(set *agent.ExtensionSettings) {
		local := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
		set.Session.TLS, set.Connections.TLS = local, local
		set.Connections.Certificate = agent.CertificateSettings{Request: true, Bootstrap: bootstrap}
	})
	h.start()
	receive(t, running)
	presented := func(n int, name string) func() bool {
		return func() bool {
			if len(s.clients) < n {
				return false
			}
			used := s.clients[n-1]
			return name == "" && len(used) == 0 || len(used) > 0 && used[0].Subject.CommonName == name
		}
	}
	s.wait(t, "a connection without a certificate", presented(1, ""))
	s.waitSettings(t, "certificate 1", settingsApplied)
	s.wait(t, "one with the certificate", presented(2, "first"))
	for _, path := range bootstrap {
		require.Eventually(t, func() bool { _, err := os.Stat(path); return errors.Is(err, fs.ErrNotExist) }, waitTime, tick)
	}
	s.wait(t, "one without it, when it has expired", presented(3, ""))
	s.mu.Lock()
	s.sign = i.answering("second", -time.Minute, time.Hour)
	s.mu.Unlock()
	s.wait(t, "one with another", presented(4, "second"))
}

// No certificate is requested where it would not last, and none is accepted.
//
// Conformance: 103
func TestCertificateOnStorageThatDoesNotLast(t *testing.T) {
	t.Parallel()
	s, i := startServer(t), newIssuer(t)
	s.sign = i.answering("", -time.Minute, time.Hour)
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.also(func(set *agent.ExtensionSettings) {
		set.Connections.Certificate = agent.CertificateSettings{Request: true, Ephemeral: true}
	})
	core, logged := observer.New(zap.WarnLevel)
	h.log = zap.New(core)
	h.start()
	receive(t, running)
	s.wait(t, "health", func() bool { return s.health != nil && len(s.conns) == 1 })
	offer := opampOffer("")
	offer.Opamp.Certificate = i.pair()
	s.offers(t, "h1", offer)
	status := s.waitSettings(t, "h1", settingsFailed)
	assert.Contains(t, status.GetErrorMessage(), "opamp: certificate: the state folder does not last (certificate::ephemeral_storage)")
	s.mu.Lock()
	assert.Empty(t, s.requests)
	s.mu.Unlock()
	assert.Equal(t, 1, logged.FilterMessage("No certificate is requested from the OpAMP server").Len())
}

// The agent ends while it tries a connection that says nothing: the next process goes
// on with that, and nothing runs on.
//
// Conformance: 92
func TestEndWhileAConnectionIsTried(t *testing.T) {
	t.Parallel()
	s, other := startServer(t), startServer(t)
	other.refuse = true
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	s.wait(t, "health", func() bool { return s.health != nil })
	s.offers(t, "h1", opampOffer(other.url))
	other.wait(t, "an attempt", func() bool { return other.refused > 0 })
	// A reload changes nothing.
	h.reload <- struct{}{}
	receive(t, running)
	next, running := h.again()
	other.mu.Lock()
	other.refuse = false
	other.mu.Unlock()
	next.start()
	receive(t, running)
	other.waitSettings(t, "h1", settingsApplied)
	newOperator(next).seesSettings("6831", "applied")
}

// What says that the agent's message is no good proves nothing.
//
// Conformance: 95, 97
func TestErrorIsNoAnswer(t *testing.T) {
	t.Parallel()
	s, other := startServer(t), startServer(t)
	other.failure = &protobufs.ServerErrorResponse{Type: protobufs.ServerErrorResponseType_ServerErrorResponseType_Unavailable}
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.also(func(set *agent.ExtensionSettings) { set.Connections.VerifyTimeout = time.Second })
	h.start()
	lease := receive(t, running)
	s.wait(t, "health", func() bool { return s.health != nil })
	s.offers(t, "h1", opampOffer(other.url))
	status := s.waitSettings(t, "h1", settingsFailed)
	assert.Contains(t, status.GetErrorMessage(), "opamp: no server has answered in time")
	require.Eventually(t, func() bool {
		m := lease.Metrics()
		return m.SwitchedBack == 1 && m.Switched == 0 && m.SettingsReceived && !m.SettingsApplied
	}, waitTime, tick)
	s.wait(t, "health", func() bool { return strings.Contains(s.health.GetStatus(), "connection settings 6831 failed") })
}

// A remote configuration over the connection in test is an answer, and is applied.
func TestRemoteConfigurationOverATriedConnection(t *testing.T) {
	t.Parallel()
	s, other := startServer(t), startServer(t)
	other.set("c1", "receivers: {a: {x: 1}}")
	h, running := newAcceptingHost(t, s, t.TempDir())
	h.start()
	receive(t, running)
	s.wait(t, "health", func() bool { return s.health != nil })
	offer := opampOffer(other.url)
	offer.Opamp.Headers = headers("X-Tenant", "blue-4711")
	s.offers(t, "h1", offer)
	other.waitStatus(t, "c1", applied)
	other.waitSettings(t, "h1", settingsApplied)
	other.mu.Lock()
	assert.Equal(t, "blue-4711", other.headers[0].Get("X-Tenant"))
	other.mu.Unlock()
	shown, err := os.ReadFile(filepath.Join(folderOf(h), "state.json"))
	require.NoError(t, err)
	assert.NotContains(t, string(shown), "blue-4711")
}

// What is announced follows what there is: consent, an opamp: URI, a folder that can be
// written, a process of its own.
func TestConnectionCapabilities(t *testing.T) {
	t.Parallel()
	const (
		opamp  = uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings)
		others = uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsOtherConnectionSettings)
		own    = uint64(protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnMetrics | protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnTraces | protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnLogs)
		all    = opamp | others | own
	)
	for name, o := range map[string]struct {
		provider bool
		change   func(*agent.ExtensionSettings)
		want     uint64
	}{
		"all":             {true, func(*agent.ExtensionSettings) {}, all},
		"no opamp: URI":   {false, func(*agent.ExtensionSettings) {}, 0}, // nor a folder
		"supervised":      {true, func(set *agent.ExtensionSettings) { set.Supervised = true }, 0},
		"only the others": {true, func(set *agent.ExtensionSettings) { set.Connections.OpAMP, set.Connections.Own = false, nil }, others},
		"nothing":         {true, func(set *agent.ExtensionSettings) { set.Connections = agent.Connections{} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			h, _ := newAcceptingHost(t, s, t.TempDir())
			h.also(o.change)
			if o.provider {
				p, err := agent.AcquireProvider(t.Context(), h.name, h.dir, zap.NewNop())
				require.NoError(t, err)
				defer func() { assert.NoError(t, p.Release(context.Background())) }()
			}
			e, err := agent.AcquireExtension(t.Context(), h.name, h.settings())
			require.NoError(t, err)
			defer func() { assert.NoError(t, e.Release(context.Background())) }()
			s.wait(t, "a message", func() bool { return s.caps != 0 })
			s.mu.Lock()
			defer s.mu.Unlock()
			assert.Equal(t, o.want, s.caps&all)
			status := s.caps&uint64(protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus) != 0
			assert.Equal(t, o.want != 0, status)
		})
	}
}
