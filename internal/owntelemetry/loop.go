package owntelemetry

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// Loops reports whether the endpoint, a URL, is one of the addresses that this
// process listens on (host:port, as [Listening] returns them). Own logs must not be
// sent there.
//
// Names are not looked up: a host is this one if it is localhost, its own name, or an
// address of one of its interfaces. A loop through another name, a proxy or another
// Collector is not seen.
func Loops(endpoint string, listening []string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	to := addresses(u.Hostname())
	for _, address := range listening {
		host, at, err := net.SplitHostPort(address)
		if err != nil || at != port || len(to) == 0 {
			continue
		}
		on := addresses(host)
		if host == "" {
			on = []netip.Addr{netip.IPv6Unspecified()}
		}
		for _, x := range on {
			for _, y := range to {
				if x == y || (x.IsUnspecified() || x.IsLoopback()) && y.IsLoopback() || x.IsUnspecified() && slices.Contains(interfaces(), y) {
					return true
				}
			}
		}
	}
	return false
}

// addresses returns what a host stands for, as far as that is known here without
// asking anybody. What connects to an unspecified address reaches the loopback.
func addresses(host string) []netip.Addr {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		if ip.IsUnspecified() {
			return []netip.Addr{ip, netip.AddrFrom4([4]byte{127, 0, 0, 1})}
		}
		return []netip.Addr{ip}
	}
	if own, err := os.Hostname(); err == nil && strings.EqualFold(own, host) {
		return interfaces()
	}
	return nil
}

func interfaces() []netip.Addr {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var own []netip.Addr
	for _, address := range found {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			own = append(own, prefix.Addr().Unmap())
		}
	}
	return own
}

// Listening returns the addresses (host:port) of the OTLP receivers that serve HTTP
// in an effective configuration, references expanded: the protocol in which own
// telemetry is sent.
func Listening(conf map[string]any) []string {
	receivers, _ := conf["receivers"].(map[string]any)
	var listening []string
	for id, settings := range receivers {
		kind, _, _ := strings.Cut(id, "/")
		if strings.TrimSpace(kind) != "otlp" {
			continue
		}
		m, _ := settings.(map[string]any)
		protocols, _ := m["protocols"].(map[string]any)
		value, ok := protocols["http"]
		if !ok {
			continue
		}
		address := "localhost:4318" // the receiver's default
		if http, _ := value.(map[string]any); http["endpoint"] != nil {
			address, _ = http["endpoint"].(string)
		}
		listening = append(listening, address)
	}
	return listening
}
