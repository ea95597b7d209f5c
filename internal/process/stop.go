package process

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// WatchStop calls told with every SIGTERM and SIGINT of this process, in
// addition to what the Collector does with them, until stop is called. Stop
// waits for a call in progress.
func WatchStop(told func(os.Signal)) (stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case s := <-signals:
				told(s)
			case <-done:
				for {
					select { // what came before stop was called
					case s := <-signals:
						told(s)
					default:
						return
					}
				}
			}
		}
	})
	return sync.OnceFunc(func() {
		signal.Stop(signals)
		close(done)
		work.Wait()
	})
}
