package compare

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

// service keeps a process running, as a service manager does: whenever it ends it
// is started again after RestartDelay.
type service struct {
	settings otelcol.Settings
	stopping chan struct{}
	ended    sync.WaitGroup

	mu sync.Mutex
	// mu guards everything below.
	process *otelcol.Process
	err     error // why it is not started again
}

func startService(settings otelcol.Settings) (*service, error) {
	p, err := otelcol.Start(settings)
	if err != nil {
		return nil, err
	}
	s := &service{settings: settings, stopping: make(chan struct{}), process: p}
	s.ended.Go(s.keep)
	return s, nil
}

func (s *service) keep() {
	for {
		select {
		case <-s.running().Exited():
		case <-s.stopping:
			return
		}
		delay := time.NewTimer(RestartDelay - time.Since(s.running().ExitedAt()))
		select {
		case <-delay.C:
		case <-s.stopping:
			delay.Stop()
			return
		}
		p, err := otelcol.Start(s.settings)
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return
		}
		s.process = p
		s.mu.Unlock()
	}
}

// running is the process that was started last.
func (s *service) running() *otelcol.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// stop ends the process and everything that it has left behind.
func (s *service) stop(ctx context.Context) error {
	close(s.stopping)
	s.ended.Wait()
	p := s.running()
	err := p.Stop(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.err, err, p.KillAll())
}
