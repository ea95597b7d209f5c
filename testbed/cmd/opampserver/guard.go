package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// contentSecurityPolicy allows the style sheet and forms of this server, and
// nothing else: no script at all.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// checkLoopback refuses an address on which others could reach the page: it can
// change the configuration of every agent and asks nobody for a password.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--ui: %w", err)
	}
	if !isLoopback(host) {
		return fmt.Errorf("--ui: %q is not a loopback address; the page has no authentication, use 127.0.0.1, [::1] or localhost "+
			"(and an SSH tunnel to look from elsewhere)", addr)
	}
	return nil
}

// isLoopback reports whether a host, without port, can only mean this machine.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// guard protects the handler from other web sites that the developer's browser
// has open. A loopback Host stops DNS rebinding; the check of Sec-Fetch-Site and
// Origin stops forms of other sites. Clients other than browsers send neither.
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // no-referrer would blank the Origin of our own forms
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !isLoopback(hostOf(r.Host)) {
			http.Error(w, fmt.Sprintf("Host %q is not a loopback address", r.Host), http.StatusMisdirectedRequest)
			return
		}
		sameOrigin.ServeHTTP(w, r)
	})
}

// hostOf removes the port, if there is one, and the brackets of IPv6.
func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}
