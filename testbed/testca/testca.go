// Package testca issues certificates for tests: of servers on this machine, of
// clients with a lifetime of seconds, and for the requests of clients that keep
// their key to themselves.
//
// All methods of [CA] are safe for concurrent use.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	// rootLifetime is longer than any test runs.
	rootLifetime = 24 * time.Hour
	// serialBits make serial numbers that do not meet by chance, within the 20
	// bytes that RFC 5280 allows.
	serialBits = 120

	typeCertificate = "CERTIFICATE"
	typeKey         = "PRIVATE KEY"
	typeRequest     = "CERTIFICATE REQUEST"
)

// CA is an authority with one root and nothing between it and its certificates.
type CA struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority. Two with the same name do not trust each other.
func New(name string) (*CA, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-rootLifetime),
		NotAfter:              now.Add(rootLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	root, err := issue(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the root of %q: %w", name, err)
	}
	return &CA{root: root, key: key}, nil
}

// PEM is the root certificate.
func (c *CA) PEM() []byte { return encode(typeCertificate, c.root.Raw) }

// Pool trusts this authority alone.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	return pool
}

// Validity is the time in which a certificate is valid. Certificates count in
// seconds: the beginning is rounded down, the end up.
type Validity struct{ From, To time.Time }

// For is the validity of a certificate that is issued now. It begins a second
// early: what verifies it may have read the clock a moment before.
func For(lifetime time.Duration) Validity {
	now := time.Now()
	return Validity{From: now.Add(-time.Second), To: now.Add(lifetime)}
}

// Expired is the validity of a certificate that ended an hour ago.
func Expired() Validity {
	now := time.Now()
	return Validity{From: now.Add(-2 * time.Hour), To: now.Add(-time.Hour)}
}

// Pair is a certificate and its key.
type Pair struct {
	// Cert and Key are in PEM.
	Cert, Key []byte
	Leaf      *x509.Certificate
	key       crypto.Signer
}

// TLS is the pair as the TLS library takes it.
func (p Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Leaf.Raw}, PrivateKey: p.key, Leaf: p.Leaf}
}

// Server issues a certificate for 127.0.0.1, ::1 and localhost.
func (c *CA) Server(v Validity) (Pair, error) {
	return c.pair(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, v)
}

// Client issues a certificate for a client with this common name.
func (c *CA) Client(name string, v Validity) (Pair, error) {
	return c.pair(clientTemplate(pkix.Name{CommonName: name}), v)
}

// Sign issues a client's certificate, in PEM, for a request in PEM, with the
// subject that is asked for. The signature of the request is verified.
func (c *CA) Sign(request []byte, v Validity) ([]byte, *x509.Certificate, error) {
	block, rest := pem.Decode(request)
	if block == nil || block.Type != typeRequest || len(rest) > 0 {
		return nil, nil, errors.New("signing a certificate request: it is not one PEM block of that type")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("signing a certificate request: %w", err)
	}
	cert, err := c.leaf(clientTemplate(csr.Subject), v, csr.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate request: %w", err)
	}
	return encode(typeCertificate, cert.Raw), cert, nil
}

// ServerConfig is that of a server with this certificate, which demands a
// certificate of clients if it is given their authority.
func ServerConfig(server Pair, clients *CA) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server.TLS()}}
	if clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, clients.Pool()
	}
	return config
}

func clientTemplate(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

func (c *CA) pair(template *x509.Certificate, v Validity) (Pair, error) {
	key, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	cert, err := c.leaf(template, v, key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("issuing a certificate for %q: %w", template.Subject.CommonName, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encoding a key: %w", err)
	}
	return Pair{Cert: encode(typeCertificate, cert.Raw), Key: encode(typeKey, der), Leaf: cert, key: key}, nil
}

func (c *CA) leaf(template *x509.Certificate, v Validity, key crypto.PublicKey) (*x509.Certificate, error) {
	template.NotBefore = v.From.Truncate(time.Second)
	template.NotAfter = v.To.Add(time.Second - 1).Truncate(time.Second)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return issue(template, c.root, key, c.key)
}

// issue gives the template a serial number and signs it.
func issue(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
