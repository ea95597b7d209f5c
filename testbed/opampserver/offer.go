package opampserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"

	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

// contentTypeYAML is the content type of the files that YAML makes.
const contentTypeYAML = "text/yaml"

// ErrNotConnected is returned for an agent that cannot be sent anything.
var ErrNotConnected = errors.New("agent is not connected")

// File is one file of an offer.
type File struct {
	Body        []byte
	ContentType string
}

// Offer is a remote configuration. An Offer without files is an offer of the
// empty configuration.
type Offer struct {
	// Hash identifies the offer. When nil, the SHA-256 of the sorted files.
	Hash  []byte
	Files map[string]File
}

// YAML is the offer of one file with the name "".
func YAML(text string) Offer {
	return Offer{Files: map[string]File{"": {Body: []byte(text), ContentType: contentTypeYAML}}}
}

// Digest is the hash under which the offer is sent: Hash, or the SHA-256 of the
// sorted files.
func (o Offer) Digest() []byte {
	if o.Hash != nil {
		return o.Hash
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		f := o.Files[name]
		writeFramed(h, []byte(name))
		writeFramed(h, []byte(f.ContentType))
		writeFramed(h, f.Body)
	}
	return h.Sum(nil)
}

// writeFramed puts the length first, so that no two lists of fields look alike.
func writeFramed(h hash.Hash, b []byte) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(b)))
	h.Write(length[:])
	h.Write(b)
}

// RemoteConfig is the offer as it goes into a message. Bodies are shared.
func (o Offer) RemoteConfig() *protobufs.AgentRemoteConfig {
	files := make(map[string]*protobufs.AgentConfigObject, len(o.Files))
	for name, f := range o.Files {
		files[name] = &protobufs.AgentConfigObject{Body: f.Body, ContentType: f.ContentType}
	}
	return &protobufs.AgentRemoteConfig{
		Config:     &protobufs.AgentConfigMap{ConfigMap: files},
		ConfigHash: o.Digest(),
	}
}

// clone copies the offer with its bodies and fills in the hash.
func (o Offer) clone() Offer {
	files := make(map[string]File, len(o.Files))
	for name, f := range o.Files {
		files[name] = File{Body: bytes.Clone(f.Body), ContentType: f.ContentType}
	}
	return Offer{Hash: bytes.Clone(o.Digest()), Files: files}
}

// Offer sets what is offered to an agent, or with an empty uid to every agent
// that has no offer of its own, those included that connect later: it is then
// part of their very first answer. Like a real server it offers only to agents
// that accept remote configuration and report another hash as the last one
// received; it is sent at once on WebSocket and in each answer until the agent
// reports the hash. Offer copies o and returns its hash.
func (s *Server) Offer(uid string, o Offer) []byte {
	o = o.clone()
	s.mu.Lock()
	s.offers[uid] = o
	flush := s.pushOfferLocked(uid, o)
	s.mu.Unlock()
	s.flushAll(flush)
	return o.Hash
}

// OfferToAll is Offer for every agent, also for those that have an offer of their
// own: those offers are withdrawn.
func (s *Server) OfferToAll(o Offer) []byte {
	o = o.clone()
	s.mu.Lock()
	s.offers = map[string]Offer{"": o}
	flush := s.pushOfferLocked("", o)
	s.mu.Unlock()
	s.flushAll(flush)
	return o.Hash
}

// pushOfferLocked puts the offer into the outbox of each connected agent that it
// is for, and returns their sessions.
func (s *Server) pushOfferLocked(uid string, o Offer) []*session {
	var flush []*session
	for _, a := range s.agents {
		if a.session == nil || uid != "" && a.uid != uid {
			continue
		}
		if due, ok := s.dueLocked(a); ok && bytes.Equal(due.Hash, o.Hash) {
			flush = append(flush, pushLocked(a, &protobufs.ServerToAgent{RemoteConfig: due.RemoteConfig()}))
		}
	}
	s.notifyLocked()
	return flush
}

// flushAll writes outboxes. Errors are in the record, and the offers stay in
// force for the next connection.
func (s *Server) flushAll(sessions []*session) {
	for _, sess := range sessions {
		_ = s.flush(sess)
	}
}

// Offered returns the offer in force for an agent, or with an empty uid the one
// to all, and whether there is one. It belongs to the caller.
func (s *Server) Offered(uid string) (Offer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.offerLocked(uid)
	if !ok {
		return Offer{}, false
	}
	return o.clone(), true
}

// Withdraw removes the offer to an agent, or with an empty uid the one to all.
// Nothing is sent: an agent keeps what it has.
func (s *Server) Withdraw(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.offers, uid)
}

// offerLocked returns the offer in force for an agent.
func (s *Server) offerLocked(uid string) (Offer, bool) {
	if o, ok := s.offers[uid]; ok {
		return o, true
	}
	o, ok := s.offers[""]
	return o, ok
}

// OfferOnce sends the offer to one agent exactly once, whatever it has reported
// and without keeping it: to offer the same thing again, for example.
func (s *Server) OfferOnce(uid string, o Offer) error {
	return s.Send(uid, &protobufs.ServerToAgent{RemoteConfig: o.clone().RemoteConfig()})
}

// Send sends an arbitrary message to one agent: at once on WebSocket, as the
// whole next answer on HTTP. The message is copied; only an empty InstanceUid is
// filled in. On HTTP the protocol library replaces CustomCapabilities by those
// of the Settings.
func (s *Server) Send(uid string, msg *protobufs.ServerToAgent) error {
	msg = proto.Clone(msg).(*protobufs.ServerToAgent)
	s.mu.Lock()
	a, ok := s.agents[uid]
	switch {
	case !ok || !a.connected:
		s.mu.Unlock()
		return fmt.Errorf("sending to agent %s: %w", uid, ErrNotConnected)
	case a.session == nil:
		if len(msg.GetInstanceUid()) == 0 {
			msg.InstanceUid = a.raw
		}
		a.queue = append(a.queue, msg)
		s.mu.Unlock()
		return nil
	}
	sess := pushLocked(a, msg)
	s.mu.Unlock()
	return s.flush(sess)
}
