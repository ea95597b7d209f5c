package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// attempt is what was heard of an attempt over WebSocket. It belongs to the
// client's goroutine that connects.
type attempt struct {
	failed time.Time // zero while it has not
	busy   bool      // so the server said
	told   bool
}

// leastWish is what a wait of the client's own must last to be a server's wish:
// Retry-After counts seconds, and without it the client does not wait, since
// [noPauses] are asked for.
const leastWish = 900 * time.Millisecond

// next begins another attempt over WebSocket when there may be one; it returns
// false if the session is stopped before.
func (s *Session) next() bool {
	former := s.attempt
	s.attempt = attempt{}
	if !former.failed.IsZero() {
		if waited := time.Since(former.failed); waited >= leastWish {
			s.pace.vary(waited)
		} else if former.busy {
			s.pace.leaveAlone(0)
		}
	}
	return s.pace.wait(s.stopping)
}

// ending tells whether the session is being stopped; what fails then fails because
// of that.
func (s *Session) ending() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// lost tells that there is no connection.
func (s *Session) lost(err error) {
	if s.ending() {
		return
	}
	s.counters.Connected.Store(0)
	s.callback.ConnectFailed(err)
}

// dialFailed is told of a failed attempt over WebSocket, once or twice.
func (s *Session) dialFailed(err error) {
	if s.ending() {
		return
	}
	if s.attempt.failed.IsZero() {
		s.attempt.failed = time.Now()
		s.pace.fail()
		if errors.Is(err, websocket.ErrBadHandshake) {
			return // the status follows, or a redirect, or the same again
		}
	}
	if !s.attempt.told {
		s.attempt.told = true
		s.lost(err)
	}
}

// How the client logs what it tells no callback: the HTTP status with which the
// server refuses a WebSocket connection. Tests pin these texts; with others the
// failure is told without the status.
const (
	logStatus     = "Server responded with status=%v"
	logNoLocation = "%d redirect, but no valid location: %s"
)

// logged is told what the client logs.
func (s *Session) logged(format string, values []any) {
	if format == logIgnored {
		s.keepInterval()
		return
	}
	if format != logStatus && format != logNoLocation || len(values) == 0 {
		return
	}
	status, _, _ := strings.Cut(fmt.Sprint(values[0]), " ")
	code, err := strconv.Atoi(status)
	if err != nil {
		return
	}
	s.attempt.busy = throttles(code)
	s.attempt.told = true
	s.lost(statusError(code))
}

// statusError is the HTTP status of a server that refuses.
type statusError int

func (s statusError) Error() string {
	return fmt.Sprintf("the OpAMP server answers with HTTP status %d %s", int(s), http.StatusText(int(s)))
}

// Certain tells whether an error of [Callbacks.ConnectFailed] will come again with
// every attempt, as far as anybody can tell: the server or a proxy refuses the
// agent by its HTTP status (401, 403, 404, 407), a certificate of theirs does not
// pass, or they do not take that of the agent. All else may pass, a time-out for
// example. A server that refuses a certificate may also just hang up, which is not
// certain.
func Certain(err error) bool {
	if status, ok := errors.AsType[statusError](err); ok {
		return refuses(int(status))
	}
	if status, ok := errors.AsType[proxyError](err); ok {
		return refuses(int(status))
	}
	return distrusts(err) || distrusted(err)
}

func refuses(code int) bool {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired:
		return true
	default:
		return false
	}
}

// distrusts tells whether the peer's certificate did not pass.
func distrusts(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	// What a verification of the agent's own returns is not wrapped.
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return authority || host || invalid
}

// distrusted tells whether the peer says that the agent's certificate did not pass
// (RFC 8446, section 6.2).
func distrusted(err error) bool {
	for {
		op, ok := errors.AsType[*net.OpError](err)
		if !ok {
			return false
		}
		if op.Op == "remote error" && op.Err != nil {
			// crypto/tls has no exported type for it; a test pins the texts.
			switch strings.TrimPrefix(op.Err.Error(), "tls: ") {
			case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
				"unknown certificate", "unknown certificate authority", "access denied", "certificate required",
				"handshake failure": // up to TLS 1.2 also if the agent has no certificate; else nothing in common, for good
				return true
			}
		}
		err = op.Err
	}
}

// throttles tells whether a server with this HTTP status is busy.
func throttles(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable
}

// unavailable leaves the server alone for a time that it wishes, in nanoseconds; 0
// for no wish.
func (s *Session) unavailable(wish uint64) {
	pause := s.pace.leaveAlone(time.Duration(min(wish, math.MaxInt64)))
	s.lost(fmt.Errorf("the OpAMP server is unavailable; the agent comes back in %v", pause.Round(time.Millisecond)))
	s.hangUp()
}

// transport sends the requests of the plain HTTP client. It asks for credentials
// with every attempt, and sends nothing without, where opamp-go asks once per
// message, however often it tries; it tells of failures that opamp-go only logs;
// and it varies Retry-After.
type transport struct {
	next http.RoundTripper
	s    *Session
	set  Settings
}

var errStopping = errors.New("the OpAMP session is being stopped")

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.s.pace.waitFraction(r.Context().Done())
	if t.s.ending() { // perhaps instead of waiting any longer
		return nil, refused(r, errStopping)
	}
	t.set.Counters.MessagesSent.Add(1)
	if t.set.Authorize != nil {
		r = r.Clone(r.Context())
		if err := authorize(r.Header, t.set, r.Method); err != nil {
			return nil, refused(r, err)
		}
	}
	response, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch code := response.StatusCode; {
	case code == http.StatusOK:
	case throttles(code): // the client tries again, and tells
		pause := t.s.pace.leaveAlone(retryAfter(response))
		// Whole seconds only; waitFraction has the rest.
		response.Header.Set("Retry-After", strconv.FormatInt(int64(pause/time.Second), 10))
	case code >= 300 && code < 400 && response.Header.Get("Location") != "":
		// A redirect: followed, or refused with an error.
	default:
		t.s.pace.fail()
		t.s.lost(statusError(code))
	}
	return response, nil
}

// refused ends a request that is not sent.
func refused(r *http.Request, err error) error {
	if r.Body == nil {
		return err
	}
	return errors.Join(err, r.Body.Close())
}

// retryAfter returns what the server wishes; 0 for nothing, or for nothing that
// can be understood.
func retryAfter(response *http.Response) time.Duration {
	value := response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		// More seconds than a Duration holds are as many as it holds.
		return time.Duration(max(0, min(seconds, math.MaxInt64/int64(time.Second)))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

type clientLogger struct {
	log  Logger
	seen func(format string, values []any)
}

func (l clientLogger) Debugf(_ context.Context, format string, v ...any) {
	l.log.Debugf(format, v...)
	l.seen(format, v)
}

func (l clientLogger) Errorf(_ context.Context, format string, v ...any) {
	l.log.Errorf(format, v...)
	l.seen(format, v)
}
