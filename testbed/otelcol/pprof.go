package otelcol

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
)

// GoroutineCount asks a Collector that serves its profiles for the number of goroutines. The endpoint
// is its base URL, for example http://127.0.0.1:1777.
func GoroutineCount(ctx context.Context, endpoint string) (int, error) {
	url := strings.TrimSuffix(endpoint, "/") + "/debug/pprof/goroutine?debug=1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, fmt.Errorf("counting goroutines: %w", err)
	}
	// A connection of its own, without proxy, that does not stay open: it would be
	// counted the next time.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("counting goroutines: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // only read from
	first, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("counting goroutines: %s: %w", res.Status, err)
	}
	var count int
	if _, err := fmt.Sscanf(first, "goroutine profile: total %d", &count); err != nil {
		return 0, fmt.Errorf("counting goroutines: %s: unexpected answer %q: %w", res.Status, first, err)
	}
	return count, nil
}
