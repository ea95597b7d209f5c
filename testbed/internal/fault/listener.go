package fault

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// listeners are shared by the components of one block: the Collector makes one
// for each signal, with the same *Config.
var listeners = struct {
	mu    sync.Mutex
	byCfg map[*Config]*sharedListener
}{byCfg: map[*Config]*sharedListener{}}

type sharedListener struct {
	net.Listener
	users int
}

// acquireListener binds cfg.Listen, or joins the one who did. The returned
// function gives it back and must be called once.
func acquireListener(ctx context.Context, cfg *Config) (release func() error, err error) {
	listeners.mu.Lock()
	defer listeners.mu.Unlock()
	shared, ok := listeners.byCfg[cfg]
	if !ok {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("listening on %q: %w", cfg.Listen, err)
		}
		shared = &sharedListener{Listener: ln}
		listeners.byCfg[cfg] = shared
	}
	shared.users++
	return func() error {
		listeners.mu.Lock()
		defer listeners.mu.Unlock()
		shared.users--
		if shared.users > 0 {
			return nil
		}
		delete(listeners.byCfg, cfg)
		if err := shared.Close(); err != nil {
			return fmt.Errorf("closing the listener on %q: %w", cfg.Listen, err)
		}
		return nil
	}, nil
}
