package connsettings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Types of PEM blocks (RFC 7468).
const (
	pemCertificate = "CERTIFICATE"
	pemRequest     = "CERTIFICATE REQUEST"
	pemKey         = "PRIVATE KEY"
)

// NewKey returns a new private key in PEM: ECDSA over P-256, which every server can
// verify and which costs no time to make.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a private key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// Request returns a certificate signing request in PEM for a key of [NewKey], which is
// not part of it. The instance UID in its text form becomes the common name.
func Request(key []byte, uid string) ([]byte, error) {
	if uid == "" {
		return nil, errors.New("requesting a certificate: there is no instance UID")
	}
	block, _ := pem.Decode(key)
	if block == nil || block.Type != pemKey {
		return nil, errNoKey
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errNoKey // what went wrong might show a part of it
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: uid}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, private)
	if err != nil {
		return nil, fmt.Errorf("making the certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

var errNoKey = errors.New("requesting a certificate: the private key cannot be read: it must be one that was made here")

const (
	// renewJitter is how far the renewal moves to either side, as a part of the
	// lifetime. Agents that were started together got their certificates together;
	// over a tenth of the lifetime, the authority sees them one after another, and a
	// quarter is left for further tries.
	renewJitter = 0.05
	// renewParts: a certificate is renewed after two of three parts of its lifetime
	// (design, section 7), so that the last one is left for tries that fail.
	renewParts = 3
)

// RenewAt returns when the certificate, in PEM, is to be renewed: after two thirds of
// its lifetime, which begins with its NotBefore, more or less a random part of it.
// Random returns numbers in [0, 1). The time may be in the past.
func RenewAt(certificate []byte, random func() float64) (time.Time, error) {
	leaf, err := leafOf(certificate)
	if err != nil {
		return time.Time{}, fmt.Errorf("scheduling the renewal of a certificate: %w", err)
	}
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	if lifetime <= 0 {
		return time.Time{}, errors.New("scheduling the renewal of a certificate: it ends before it begins")
	}
	jitter := time.Duration((2*random() - 1) * renewJitter * float64(lifetime))
	return leaf.NotBefore.Add(lifetime/renewParts*(renewParts-1) + jitter), nil
}

// NotAfter returns when a certificate in PEM expires, the first of a chain.
func NotAfter(certificate []byte) (time.Time, error) {
	leaf, err := leafOf(certificate)
	if err != nil {
		return time.Time{}, err
	}
	return leaf.NotAfter, nil
}

// Matches returns an error if the key does not belong to the certificate, both in PEM,
// or one of them cannot be read. It shows nothing of the key.
func Matches(certificate, key []byte) error {
	_, err := Pair(certificate, key)
	return err
}

// Pair returns a client certificate with its chain for use with TLS, from PEM. Its
// errors show nothing of the key.
func Pair(certificate, key []byte) (tls.Certificate, error) {
	if _, err := certificatesOf(certificate); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		// The error might repeat what was read.
		return tls.Certificate{}, errors.New("the private key cannot be read, or does not belong to the certificate")
	}
	return pair, nil
}

// leafOf returns the first certificate of a chain.
func leafOf(chain []byte) (*x509.Certificate, error) {
	certificates, err := certificatesOf(chain)
	if err != nil {
		return nil, err
	}
	return certificates[0], nil
}

// certificatesOf returns all certificates of a PEM text, of which there must be one.
// Blocks of other types are skipped. Errors repeat nothing of the text: it might be a
// key that got into the wrong field.
func certificatesOf(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate number %d of the PEM text cannot be read", len(all)+1)
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate in PEM")
	}
	return all, nil
}
