package testca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

func newCA(t *testing.T, name string) *testca.CA {
	t.Helper()
	ca, err := testca.New(name)
	require.NoError(t, err)
	return ca
}

// shake does a TLS handshake and returns the errors of both ends.
func shake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	ended := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err == nil {
			c := tls.Server(raw, server)
			err = c.HandshakeContext(ctx)
			_ = c.Close()
		}
		ended <- err
	}()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	require.NoError(t, err)
	c := tls.Client(raw, client)
	atClient = c.HandshakeContext(ctx)
	if atClient == nil {
		_, _ = c.Read(make([]byte, 1)) // until the server has judged, and closes
	}
	atServer = <-ended
	_ = c.Close()
	return atServer, atClient
}

func TestServerAndClient(t *testing.T) {
	t.Parallel()
	ca, wrong := newCA(t, "root"), newCA(t, "root")
	server, err := ca.Server(testca.For(time.Hour))
	require.NoError(t, err)
	expired, err := ca.Server(testca.Expired())
	require.NoError(t, err)
	client, err := ca.Client("agent", testca.For(10*time.Second))
	require.NoError(t, err)
	late, err := ca.Client("agent", testca.Expired())
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(10*time.Second), client.Leaf.NotAfter, 2*time.Second)
	_, err = tls.X509KeyPair(client.Cert, client.Key)
	require.NoError(t, err)

	trusting := func(ca *testca.CA, name string, pairs ...testca.Pair) *tls.Config {
		c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool(), ServerName: name}
		for _, p := range pairs {
			c.Certificates = append(c.Certificates, p.TLS())
		}
		return c
	}
	for _, name := range []string{"127.0.0.1", "localhost"} {
		atServer, atClient := shake(t, testca.ServerConfig(server, nil), trusting(ca, name))
		require.NoError(t, atServer)
		require.NoError(t, atClient)
	}
	_, atClient := shake(t, testca.ServerConfig(server, nil), trusting(wrong, "localhost"))
	require.ErrorAs(t, atClient, new(*tls.CertificateVerificationError))
	_, atClient = shake(t, testca.ServerConfig(expired, nil), trusting(ca, "localhost"))
	require.ErrorContains(t, atClient, "expired")

	atServer, _ := shake(t, testca.ServerConfig(server, ca), trusting(ca, "localhost", client))
	require.NoError(t, atServer)
	for _, config := range []*tls.Config{trusting(ca, "localhost"), trusting(ca, "localhost", late)} {
		atServer, _ = shake(t, testca.ServerConfig(server, ca), config)
		require.Error(t, atServer)
	}
	atServer, _ = shake(t, testca.ServerConfig(server, wrong), trusting(ca, "localhost", client))
	require.Error(t, atServer)
}

func TestSign(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "root")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "agent"}}, key)
	require.NoError(t, err)
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})

	cert, leaf, err := ca.Sign(request, testca.For(time.Minute))
	require.NoError(t, err)
	assert.Equal(t, "agent", leaf.Subject.CommonName)
	block, _ := pem.Decode(cert)
	assert.Equal(t, leaf.Raw, block.Bytes)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	require.NoError(t, err)
	assert.True(t, key.PublicKey.Equal(leaf.PublicKey))

	_, _, err = ca.Sign([]byte("hello"), testca.For(time.Minute))
	require.ErrorContains(t, err, "not one PEM block")
	der[len(der)-1] ^= 1 // the signature
	_, _, err = ca.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), testca.For(time.Minute))
	require.Error(t, err)
}
