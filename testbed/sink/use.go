package sink

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Signal is a kind of telemetry.
type Signal string

// The signals that the sink takes.
const (
	Traces  Signal = "traces"
	Metrics Signal = "metrics"
	Logs    Signal = "logs"
)

// Transport says how a request came.
type Transport string

// The transports of OTLP.
const (
	GRPC Transport = "grpc"
	HTTP Transport = "http"
)

// connectedKey finds the time of the connection in the context of a request.
type connectedKey struct{}

// Use is what requests had in common.
type Use struct {
	Transport Transport
	// Authorization is the value of that header.
	Authorization string
	// Serial is the number of the client's certificate, in decimal; empty if it has
	// shown none.
	Serial string
	// Refused means that a required header was missing or wrong.
	Refused bool
}

// Period is when and how often something was used.
type Period struct {
	First, Last time.Time
	Count       int
}

// Require makes both endpoints refuse requests as unauthenticated (status 401)
// unless the header has one of the values: while a token is rotated it may be
// either. Without values any is right again.
func (s *Sink) Require(header string, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	header = http.CanonicalHeaderKey(header)
	if len(values) == 0 {
		delete(s.required, header)
		return
	}
	s.required[header] = slices.Clone(values)
}

// Uses returns which credentials requests had, and when. Nothing is forgotten.
func (s *Sink) Uses() map[Use]Period {
	s.mu.Lock()
	defer s.mu.Unlock()
	uses := make(map[Use]Period, len(s.uses))
	for use, period := range s.uses {
		uses[use] = *period
	}
	return uses
}

// WaitUse waits until a request at or after the given time matches, and returns what
// it had.
func (s *Sink) WaitUse(ctx context.Context, since time.Time, match func(Use) bool) (Use, error) {
	var found Use
	err := s.await(ctx, func() bool {
		for use, period := range s.uses {
			if !period.Last.Before(since) && match(use) {
				found = use
				return true
			}
		}
		return false
	})
	if err != nil {
		return Use{}, fmt.Errorf("waiting for a request with certain credentials (%d kinds seen): %w", len(s.Uses()), err)
	}
	return found, nil
}

// used takes note of a request and reports whether it has the required headers.
func (s *Sink) used(transport Transport, header http.Header, state *tls.ConnectionState) bool {
	use := Use{Transport: transport, Authorization: header.Get("Authorization")}
	if state != nil && len(state.PeerCertificates) > 0 {
		use.Serial = state.PeerCertificates[0].SerialNumber.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, values := range s.required {
		use.Refused = use.Refused || !slices.Contains(values, header.Get(key))
	}
	now := time.Now()
	period, ok := s.uses[use]
	if !ok {
		period = &Period{First: now}
		s.uses[use] = period
	}
	period.Last = now
	period.Count++
	close(s.changed)
	s.changed = make(chan struct{})
	return !use.Refused
}

// admit is used for gRPC.
func (s *Sink) admit(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	header := http.Header{}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for key, values := range md {
			header[http.CanonicalHeaderKey(key)] = values
		}
	}
	var state *tls.ConnectionState
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			state = &info.State
		}
	}
	if !s.used(GRPC, header, state) {
		return nil, status.Error(codes.Unauthenticated, "a required header is missing, or wrong")
	}
	return handle(ctx, request)
}
