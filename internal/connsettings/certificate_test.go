package connsettings_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// authority signs certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{certificate: certificate, key: key, pem: encodePEM("CERTIFICATE", der)}
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// sign answers a certificate request.
func (a *authority) sign(t *testing.T, request []byte, notBefore, notAfter time.Time) []byte {
	t.Helper()
	block, rest := pem.Decode(request)
	require.NotNil(t, block)
	require.Equal(t, "CERTIFICATE REQUEST", block.Type)
	require.Empty(t, rest)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(t, err)
	require.NoError(t, csr.CheckSignature())
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, NotBefore: notBefore, NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.certificate, csr.PublicKey, a.key)
	require.NoError(t, err)
	return encodePEM("CERTIFICATE", der)
}

// issue makes a key and a certificate for it.
func (a *authority) issue(t *testing.T, notBefore, notAfter time.Time) (certificate, key []byte) {
	t.Helper()
	key, err := connsettings.NewKey()
	require.NoError(t, err)
	request, err := connsettings.Request(key, "uid")
	require.NoError(t, err)
	return a.sign(t, request, notBefore, notAfter), key
}

// TestRequest: a certificate is requested for the instance UID, with a key that is
// made here and is not part of the request.
func TestRequest(t *testing.T) {
	t.Parallel()
	key, err := connsettings.NewKey()
	require.NoError(t, err)
	another, err := connsettings.NewKey()
	require.NoError(t, err)
	assert.NotEqual(t, key, another)

	request, err := connsettings.Request(key, "0190c2a3")
	require.NoError(t, err)
	block, rest := pem.Decode(request)
	require.NotNil(t, block)
	require.Empty(t, rest, "something besides the request is sent")
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(t, err)
	assert.Equal(t, "0190c2a3", csr.Subject.CommonName)

	certificate := newAuthority(t).sign(t, request, time.Now(), time.Now().Add(time.Hour))
	require.NoError(t, connsettings.Matches(certificate, key))
	require.ErrorContains(t, connsettings.Matches(certificate, another), "does not belong to the certificate")
	pair, err := connsettings.Pair(certificate, key)
	require.NoError(t, err)
	assert.Equal(t, "0190c2a3", pair.Leaf.Subject.CommonName)
}

func TestRequestFails(t *testing.T) {
	t.Parallel()
	key, err := connsettings.NewKey()
	require.NoError(t, err)
	_, err = connsettings.Request(key, "")
	require.ErrorContains(t, err, "there is no instance UID")
	for name, bad := range map[string][]byte{
		"no PEM":       []byte("s3cret"),
		"another type": encodePEM("CERTIFICATE", []byte("s3cret")),
		"no key":       encodePEM("PRIVATE KEY", []byte("s3cret")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := connsettings.Request(bad, "uid")
			require.ErrorContains(t, err, "the private key cannot be read")
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}

// TestRenewAt: renewal is at two thirds of the lifetime, with a jitter of a twentieth
// to either side.
func TestRenewAt(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	now := time.Now().Truncate(time.Second)
	for _, tt := range []struct {
		name                string
		notBefore, notAfter time.Time
		random              float64
		want                time.Time
	}{
		{"ninety days", now, now.Add(90 * 24 * time.Hour), 0.5, now.Add(60 * 24 * time.Hour)},
		{"earliest", now, now.Add(60 * time.Second), 0, now.Add(37 * time.Second)},
		{"ten seconds", now, now.Add(9 * time.Second), 0.5, now.Add(6 * time.Second)},
		{"began before", now.Add(-time.Hour), now.Add(30 * time.Minute), 0.5, now},
		{"renewal is overdue", now.Add(-time.Hour), now.Add(time.Minute), 0.5, now.Add(-time.Hour + 40*time.Minute + 40*time.Second)},
		{"expired", now.Add(-3 * time.Hour), now.Add(-2 * time.Hour), 0.5, now.Add(-2*time.Hour - 20*time.Minute)},
		{"for ever", now, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), 0.5, now.Add(time.Duration(1<<63-1) / 3 * 2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			certificate, _ := ca.issue(t, tt.notBefore, tt.notAfter)
			got, err := connsettings.RenewAt(certificate, func() float64 { return tt.random })
			require.NoError(t, err)
			assert.WithinDuration(t, tt.want, got, time.Millisecond)
		})
	}
	certificate, _ := ca.issue(t, now, now.Add(60*time.Second))
	latest, err := connsettings.RenewAt(certificate, func() float64 { return 1 - 1e-9 })
	require.NoError(t, err)
	assert.WithinDuration(t, now.Add(43*time.Second), latest, time.Millisecond)

	_, err = connsettings.RenewAt([]byte("x"), func() float64 { return 0 })
	require.ErrorContains(t, err, "there is no certificate in PEM")
	backwards, _ := ca.issue(t, now, now.Add(-time.Second))
	_, err = connsettings.RenewAt(backwards, func() float64 { return 0 })
	require.ErrorContains(t, err, "it ends before it begins")
}

// TestThreeGenerations renews a certificate of ten seconds twice.
func TestThreeGenerations(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	now := time.Now().Truncate(time.Second)
	for range 3 {
		certificate, key := ca.issue(t, now, now.Add(10*time.Second))
		require.NoError(t, connsettings.Matches(certificate, key))
		at, err := connsettings.RenewAt(certificate, func() float64 { return 0.9 })
		require.NoError(t, err)
		assert.True(t, at.After(now.Add(6*time.Second)) && at.Before(now.Add(8*time.Second)), "%v", at.Sub(now))
		now = at
	}
}
