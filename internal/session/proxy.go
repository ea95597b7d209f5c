package session

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/open-telemetry/opamp-go/client"
)

// What is wrong with a proxy's URL is not told in detail: the texts of the
// standard library quote from it, and it may hold a password.
var (
	errProxyURL = errors.New("the URL of the proxy cannot be used: it must be http://, https:// or socks5:// with a host, and with special characters of a password escaped")
	errProxyEnv = errors.New("the URL of the proxy in the environment (HTTPS_PROXY or HTTP_PROXY) cannot be used: correct that variable")
)

// parseProxy reads a proxy's URL; without a scheme it is an HTTP proxy. What it
// returns has a port.
func parseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errProxyURL
	}
	u.Scheme = strings.ToLower(u.Scheme)
	if u.Scheme == "socks5h" { // what socks5 does here anyway: the proxy looks up the server's name
		u.Scheme = "socks5"
	}
	usual, known := map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	if !known || u.Hostname() == "" {
		return nil, errProxyURL
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), usual)
	}
	return u, nil
}

// proxyFromEnvironment is [http.ProxyFromEnvironment] whose errors show no secret.
func proxyFromEnvironment(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errProxyEnv
	}
	return u, nil
}

// proxyError is the HTTP status of a proxy that does not connect to the server.
type proxyError int

func (s proxyError) Error() string {
	return fmt.Sprintf("the proxy answers with HTTP status %d %s", int(s), http.StatusText(int(s)))
}

// useProxy makes the plain HTTP transport use the proxy of set. Through a tunnel it
// is this package's, as over WebSocket: net/http would verify an HTTPS proxy by a
// server name that is meant for the server.
func (s *Session) useProxy(t *http.Transport, set Settings) error {
	if set.Proxy == nil {
		t.Proxy = proxyFromEnvironment
		return nil
	}
	u, err := parseProxy(set.Proxy.URL)
	if err != nil {
		return err
	}
	if u.Scheme != "socks5" && strings.HasPrefix(strings.ToLower(set.Endpoint), "https:") {
		t.DialContext = s.through(u, set).connect
	} else {
		t.Proxy = http.ProxyURL(u)
	}
	return nil
}

// dialerOf returns the dialer of a WebSocket client; nil if it has none, or is not
// what it is expected to be. opamp-go has no hook for its connections, and what it
// does by itself for a proxy loses them: it dials without this package's limits,
// and through an HTTPS proxy with headers it takes the connection to the proxy for
// an encrypted one to the server. A test pins where the dialer is. It may be
// changed before each attempt, by the goroutine that connects.
func dialerOf(c client.OpAMPClient) *websocket.Dialer {
	f := field(reflect.ValueOf(c), "dialer")
	if !f.IsValid() {
		return nil
	}
	d, _ := reflect.TypeAssert[*websocket.Dialer](f.Addr())
	return d
}

// errNoDialer is why a session does not start rather than bypass its proxy.
var errNoDialer = errors.New("this build cannot use a proxy over WebSocket: use HTTP, or name the proxy in the environment")

// dialerFor returns a function that prepares the WebSocket client's dialer for an
// attempt.
func (s *Session) dialerFor(set Settings) (prepare func(), err error) {
	d := dialerOf(s.client)
	if d == nil {
		if set.Proxy != nil {
			return nil, errNoDialer
		}
		return func() {}, nil
	}
	dial, proxy := s.dial, proxyFromEnvironment
	if set.Proxy != nil {
		u, err := parseProxy(set.Proxy.URL)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "socks5" {
			proxy = http.ProxyURL(u)
		} else {
			proxy = nil
			dial = s.through(u, set).connect
		}
	}
	return func() { d.NetDialContext, d.Proxy = dial, proxy }, nil
}

// tunnel connects through an HTTP or HTTPS proxy.
type tunnel struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	url    *url.URL
	header http.Header
	tls    *tls.Config // may be nil
	// timeout is for the proxy to be connected, too.
	timeout time.Duration
}

func (s *Session) through(proxy *url.URL, set Settings) tunnel {
	return tunnel{dial: s.dial, url: proxy, header: set.Proxy.ConnectHeaders, tls: set.TLS, timeout: s.times.request}
}

// maxConnectAnswer bounds a proxy's answer, in bytes: far above the headers of any
// proxy, and little enough to be held in memory.
const maxConnectAnswer = 64 << 10

// connect returns a connection to addr once the proxy has made one.
func (t tunnel) connect(ctx context.Context, network, addr string) (_ net.Conn, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("connecting through the proxy %q: %w", t.url.Host, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	conn, err := t.dial(ctx, network, t.url.Host)
	if err != nil {
		return nil, err
	}
	// The end of ctx ends reads and writes.
	release := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if err == nil && !release() {
			err = ctx.Err()
		}
		if err != nil {
			release()
			err = errors.Join(err, conn.Close())
		}
	}()
	through := conn
	if t.url.Scheme == "https" {
		// As net/http does it, but for a server name that is meant for the server.
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if t.tls != nil {
			config = t.tls.Clone()
		}
		config.ServerName = t.url.Hostname()
		config.NextProtos = nil
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		through = secured
	}
	header := t.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if user := t.url.User; user != nil {
		password, _ := user.Password()
		header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: header}
	if err := request.Write(through); err != nil {
		return nil, err
	}
	// The reader may be dropped: the server says nothing before the client does.
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(through, maxConnectAnswer)), request) //nolint:bodyclose // that would wait for the end of the tunnel
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, proxyError(response.StatusCode)
	}
	return through, nil
}
