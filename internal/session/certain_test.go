package session_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// TestServerThatIsNotTrusted will not be at the next attempt either.
func TestServerThatIsNotTrusted(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		trusted := certificate(t)
		for name, config := range map[string]*tls.Config{
			"unknown authority": {RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12},
			"wrong name":        {RootCAs: trusted.RootCAs, ServerName: "other.test", MinVersion: tls.VersionTLS12},
			"expired": {RootCAs: trusted.RootCAs, MinVersion: tls.VersionTLS12, Time: func() time.Time {
				return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
			}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil, silent)
				set, events := settings(t, transport, server.url(transport))
				set.TLS = config
				start(t, set)
				select {
				case err := <-events.failed:
					assert.True(t, session.Certain(err), err)
				case <-time.After(waitTime):
					t.Fatal("it is not told")
				}
			})
		}
	})
}

// TestServerThatDoesNotTrustTheAgent: in some attempts nothing but a connection
// that ends may be seen of its alert, so one of them must have it.
func TestServerThatDoesNotTrustTheAgent(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for version, name := range map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"} {
			for kind, certificates := range map[string][]tls.Certificate{"none": nil, "unknown": {selfSigned(t)}} {
				t.Run(name+" "+kind, func(t *testing.T) {
					t.Parallel()
					server := startServer(t, nil, silent, func(web *httptest.Server) {
						web.TLS = &tls.Config{
							MinVersion: version, MaxVersion: version,
							ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(),
						}
					})
					set, events := settings(t, transport, server.url(transport))
					set.TLS = certificate(t)
					// Whatever authorities the server asks for.
					set.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						if len(certificates) == 0 {
							return &tls.Certificate{}, nil
						}
						return &certificates[0], nil
					}
					start(t, set)
					deadline := time.After(waitTime)
					var seen error
					for {
						select {
						case err := <-events.failed:
							if session.Certain(err) {
								assert.ErrorContains(t, err, "remote error: tls: ")
								return
							}
							seen = err
						case <-deadline:
							t.Fatal("no failure is certain, the last was:", seen)
						}
					}
				})
			}
		}
	})
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestFailuresThatMayPass are not certain.
func TestFailuresThatMayPass(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		set, events := settings(t, transport, string(transport)+"://127.0.0.1:1/v1/opamp")
		start(t, set)
		select {
		case err := <-events.failed:
			assert.False(t, session.Certain(err), err)
		case <-time.After(waitTime):
			t.Fatal("it is not told")
		}
		assert.False(t, session.Certain(nil))
	})
}
