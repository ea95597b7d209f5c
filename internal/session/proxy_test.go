package session_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// silent makes a server speak TLS and log nothing.
func silent(web *httptest.Server) { web.Config.ErrorLog = quiet(func() {}) }

// certificate returns what trusts the servers of httptest.
func certificate(t *testing.T) *tls.Config {
	t.Helper()
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	config := web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = nil
	return config
}

// relay copies both ways until one side ends.
func relay(a, b net.Conn) {
	var work sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		work.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].Close()
			_ = pair[1].Close()
		})
	}
	work.Wait()
}

// connectProxy is an HTTP proxy that hands over the headers of each CONNECT.
type connectProxy struct {
	url      string
	requests chan http.Header
}

func startConnectProxy(t *testing.T, scheme string, status int) *connectProxy {
	t.Helper()
	p := &connectProxy{requests: make(chan http.Header, 1000)}
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Error("the proxy was asked to", r.Method)
			return
		}
		p.requests <- r.Header.Clone()
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		out, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		_, _ = in.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
		work.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = in.Close() })
			defer stop()
			relay(in, out)
		})
	}))
	silent(web)
	if scheme == "https" {
		web.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			assert.Empty(t, hello.ServerName, "the proxy was taken for the server")
			return nil, nil //nolint:nilnil // the same
		}}
		web.StartTLS()
	} else {
		web.Start()
	}
	t.Cleanup(func() {
		cancel()
		web.Close()
		work.Wait()
	})
	p.url = web.URL
	return p
}

// with returns the proxy's URL with a user and a password.
func (p *connectProxy) with(user *url.Userinfo) string {
	return strings.Replace(p.url, "://", "://"+user.String()+"@", 1)
}

// TestProxy: a session goes through its own proxy, with the headers and the
// credentials for it, and the connection to the server is encrypted end to end.
//
// Conformance: 102
func TestProxy(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for _, scheme := range []string{"http", "https"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil, silent)
				proxy := startConnectProxy(t, scheme, http.StatusOK)
				set, _ := settings(t, transport, server.url(transport))
				set.TLS = certificate(t)
				set.TLS.ServerName = "example.com" // of the server; a proxy by that name would be another
				set.Counters = &session.Counters{}
				set.Header = http.Header{"X-Server": {"only"}}
				set.Proxy = &connsettings.Proxy{
					URL:            proxy.with(url.UserPassword("user", "pass:word/")),
					ConnectHeaders: http.Header{"X-Proxy": {"1", "2"}},
				}
				start(t, set)
				server.next(t)
				require.NotEmpty(t, proxy.requests)
				header := <-proxy.requests
				assert.Equal(t, []string{"1", "2"}, header["X-Proxy"])
				request := http.Request{Header: http.Header{"Authorization": header["Proxy-Authorization"]}}
				user, password, _ := request.BasicAuth()
				assert.Equal(t, "user pass:word/", user+" "+password)
				assert.Empty(t, header["X-Server"])
				server.mu.Lock()
				defer server.mu.Unlock()
				assert.Equal(t, "only", server.header.Get("X-Server"))
				assert.Empty(t, server.header["X-Proxy"])
				assert.NotZero(t, set.Counters.BytesSent.Load())
				assert.NotZero(t, set.Counters.BytesReceived.Load())
			})
		}
	})
}

// TestProxyOfAPlainWebSocket, without a scheme in its URL.
func TestProxyOfAPlainWebSocket(t *testing.T) {
	t.Parallel()
	server := startServer(t, nil)
	proxy := startConnectProxy(t, "http", http.StatusOK)
	set, _ := settings(t, session.WebSocket, server.url(session.WebSocket))
	set.Proxy = &connsettings.Proxy{URL: strings.TrimPrefix(proxy.url, "http://")}
	start(t, set)
	server.next(t)
	assert.Len(t, proxy.requests, 1)
}

// TestProxyOfAPlainHTTPServer gets the requests themselves.
func TestProxyOfAPlainHTTPServer(t *testing.T) {
	t.Parallel()
	proxy := startServer(t, nil)
	set, _ := settings(t, session.HTTP, "http://server.invalid/v1/opamp")
	set.Proxy = &connsettings.Proxy{URL: strings.Replace(proxy.url(session.HTTP), "://", "://user:secret@", 1)}
	start(t, set)
	proxy.next(t)
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	assert.NotEmpty(t, proxy.header.Get("Proxy-Authorization"))
}

// TestProxyThatRefuses is told with its status and without its secrets.
func TestProxyThatRefuses(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for status, certain := range map[int]bool{http.StatusProxyAuthRequired: true, http.StatusForbidden: true, http.StatusBadGateway: false} {
			t.Run(http.StatusText(status), func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil, silent)
				proxy := startConnectProxy(t, "http", status)
				set, events := settings(t, transport, server.url(transport))
				set.TLS = certificate(t)
				set.Proxy = &connsettings.Proxy{
					URL:            proxy.with(url.UserPassword("user", "secret")),
					ConnectHeaders: http.Header{"X-Token": {"secret"}},
				}
				start(t, set)
				select {
				case err := <-events.failed:
					require.ErrorContains(t, err, "the proxy answers with HTTP status ")
					require.ErrorContains(t, err, http.StatusText(status))
					assert.NotContains(t, err.Error(), "secret")
					assert.Equal(t, certain, session.Certain(err))
				case <-time.After(waitTime):
					t.Fatal("it is not told")
				}
				assert.Empty(t, server.received)
			})
		}
	})
}

// TestProxyThatIsNotThere shows no secrets, and is not gone around.
func TestProxyThatIsNotThere(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for _, scheme := range []string{"http", "https", "socks5"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				server := startServer(t, nil)
				set, events := settings(t, transport, server.url(transport))
				set.Proxy = &connsettings.Proxy{URL: scheme + "://user:secret@127.0.0.1:1"}
				start(t, set)
				select {
				case err := <-events.failed:
					require.ErrorContains(t, err, "connection refused")
					assert.NotContains(t, err.Error(), "secret")
					assert.False(t, session.Certain(err))
				case <-time.After(waitTime):
					t.Fatal("it is not told")
				}
				assert.Empty(t, server.received)
			})
		}
	})
}

// TestProxyThatSaysNothing does not hold up the end of a session, and leaves
// nothing behind.
func TestProxyThatSaysNothing(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		set, _ := settings(t, transport, string(transport)+"s://127.0.0.1:1/v1/opamp")
		set.TLS = certificate(t)
		set.Proxy = &connsettings.Proxy{URL: "http://" + listener.Addr().String()}
		s, err := session.Start(t.Context(), set)
		require.NoError(t, err)
		require.NoError(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(waitTime)))
		conn, err := listener.Accept()
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
		// The agent hangs up.
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(waitTime)))
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err)
		assert.NoError(t, conn.Close())
	})
}

// TestProxyURLThatCannotBeUsed is refused before anything is sent, and not shown.
//
// Conformance: 102
func TestProxyURLThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		for _, bad := range []string{"", "://secret", "http://user:sec/ret@host:1", "ftp://secret@host", "http://:3128", "http://user:%secret@host"} {
			set, _ := settings(t, transport, string(transport)+"://127.0.0.1:1/v1/opamp")
			set.Proxy = &connsettings.Proxy{URL: bad}
			_, err := session.Start(t.Context(), set)
			require.ErrorContains(t, err, "the URL of the proxy cannot be used", bad)
			assert.NotContains(t, err.Error(), "sec")
		}
	})
}

// TestSOCKS5Proxy, and what goes through it is counted.
func TestSOCKS5Proxy(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, transport session.Transport) {
		server := startServer(t, nil)
		address, served := startSOCKS5(t)
		set, _ := settings(t, transport, server.url(transport))
		set.Counters = &session.Counters{}
		set.Proxy = &connsettings.Proxy{URL: "socks5h://" + address}
		start(t, set)
		server.next(t)
		assert.NotEmpty(t, served)
		assert.NotZero(t, set.Counters.BytesSent.Load())
	})
}

// startSOCKS5 starts a proxy (RFC 1928) without authentication.
func startSOCKS5(t *testing.T) (address string, served <-chan struct{}) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	connected := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = in.Close() })
				defer stop()
				defer in.Close() //nolint:errcheck // may be closed
				target, err := socks5Target(in)
				if err != nil {
					return
				}
				out, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
				if err != nil {
					return
				}
				_, _ = in.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				connected <- struct{}{}
				relay(in, out)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		work.Wait()
	})
	return listener.Addr().String(), connected
}

func socks5Target(conn net.Conn) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(conn, make([]byte, head[1])); err != nil { // the methods
		return "", err
	}
	if _, err := conn.Write([]byte{5, 0}); err != nil {
		return "", err
	}
	request := make([]byte, 10) // an IPv4 address
	if _, err := io.ReadFull(conn, request); err != nil {
		return "", err
	}
	port := binary.BigEndian.Uint16(request[8:])
	return (&net.TCPAddr{IP: request[4:8], Port: int(port)}).String(), nil
}
