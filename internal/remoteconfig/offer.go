package remoteconfig

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// File is one file of an offer, exactly as the server sent it.
type File struct {
	// Name is the key under which the server sent it; it may be empty.
	Name string `json:"name"`
	// ContentType is what the server says the body is; empty means YAML.
	ContentType string `json:"content_type,omitempty"`
	// Body is the file's content. It must not be modified.
	Body []byte `json:"body"`
}

// Ref identifies what is merged over the local configuration: a remote
// configuration and values that it and the local layers may refer to. The zero Ref
// means that there is neither: the local configuration only. There may be values
// without a remote configuration, whose Hash and Digest are empty then.
type Ref struct {
	// Hash is the server's hash in hexadecimal. Servers choose it freely; it is
	// echoed, never computed (specification, AgentRemoteConfig).
	Hash string `json:"hash"`
	// Digest is the SHA-256 of the files in hexadecimal. It names the body on
	// disk, and two offers with the same digest are the same configuration.
	Digest string `json:"digest"`
	// Values is the digest of the values, which come from connection settings that a
	// server offered; empty if there are none. Offer.Ref leaves it empty.
	Values string `json:"values,omitempty"`
}

// IsZero reports whether r stands for the local configuration only, without values.
func (r Ref) IsZero() bool { return r == Ref{} }

// String returns the server's hash, shortened for texts that people read. Values
// only show where there is no remote configuration.
func (r Ref) String() string {
	if r.Hash == "" && r.Digest == "" && r.Values != "" {
		return "none (local configuration and connection settings only)"
	}
	if r.IsZero() {
		return "none (local configuration only)"
	}
	// 16 hexadecimal digits tell a fleet's configurations apart and still fit
	// in a log line.
	return shorten(r.Hash, 16)
}

func shorten(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// Offer is a remote configuration that a server sent.
type Offer struct {
	hash  []byte
	files []File
}

// NewOffer returns the offer of files under the server's hash. The order of
// files does not matter: they are sorted by name, the file without a name last
// (see [Offer.Parse]). The offer takes ownership of its arguments.
func NewOffer(hash []byte, files []File) Offer {
	slices.SortFunc(files, func(a, b File) int {
		if (a.Name == "") != (b.Name == "") {
			if a.Name == "" {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return Offer{hash: hash, files: files}
}

// Hash returns the server's hash. The caller must not modify it.
func (o Offer) Hash() []byte { return o.hash }

// Files returns the files in the order in which they are merged. The caller
// must not modify them.
func (o Offer) Files() []File { return o.files }

// Ref returns the offer's identity.
func (o Offer) Ref() Ref {
	h := sha256.New()
	// Each part is preceded by its length, so that no two different offers
	// give the same sequence of bytes.
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, f := range o.files {
		part([]byte(f.Name))
		part([]byte(f.ContentType))
		part(f.Body)
	}
	return Ref{Hash: hex.EncodeToString(o.hash), Digest: hex.EncodeToString(h.Sum(nil))}
}

// encodedOffer is an offer on disk.
type encodedOffer struct {
	Hash  []byte `json:"hash"`
	Files []File `json:"files"`
}

// Encode returns the offer as it is stored. [Decode] reverses it.
func (o Offer) Encode() ([]byte, error) {
	data, err := json.Marshal(encodedOffer{Hash: o.hash, Files: o.files})
	if err != nil {
		return nil, fmt.Errorf("encoding remote configuration: %w", err)
	}
	return data, nil
}

// Decode returns the offer that data holds and checks that it is the one with
// the given digest.
func Decode(data []byte, digest string) (Offer, error) {
	var e encodedOffer
	if err := json.Unmarshal(data, &e); err != nil {
		return Offer{}, fmt.Errorf("decoding remote configuration %q: %w", digest, err)
	}
	o := NewOffer(e.Hash, e.Files)
	if o.Ref().Digest != digest {
		return Offer{}, fmt.Errorf("decoding remote configuration %q: %w", digest, errDigest)
	}
	return o, nil
}

var errDigest = errors.New("its content has another digest")
