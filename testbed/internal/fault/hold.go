package fault

import (
	"sync"
	"time"
)

// leakGoroutines is enough to stand out in a goroutine count.
const leakGoroutines = 100

// leakStep is the size of one allocation of a leak: the runtime gets each from
// the system on its own.
const leakStep = 1 << 20

// holding keeps hangs and leaks until the process ends.
var holding = struct {
	mu     sync.Mutex
	latest *hold
}{latest: newHold()}

// hold is what began to hang or leak between two calls of ReleaseHangs. No hang
// joins after its release, so the release can wait for all.
type hold struct {
	release chan struct{}
	hangs   sync.WaitGroup
	memory  [][]byte // guarded by holding.mu
}

func newHold() *hold { return &hold{release: make(chan struct{})} }

// join registers one hang, which must call hang once.
func join() *hold {
	holding.mu.Lock()
	defer holding.mu.Unlock()
	h := holding.latest
	h.hangs.Add(1)
	return h
}

// hang blocks, deaf to every context, until the process ends.
func (h *hold) hang() {
	defer h.hangs.Done()
	// What hangs usually waits for a network or a clock. Waiting for the release
	// alone would not hang a small process: the Go runtime ends one in which
	// nothing can ever happen.
	clock := time.NewTicker(time.Hour)
	defer clock.Stop()
	for {
		select {
		case <-h.release:
			return
		case <-clock.C:
		}
	}
}

// leak takes so many bytes of real memory, and goroutines, for good.
func leak(bytes int64) {
	for range leakGoroutines {
		go join().hang()
	}
	for bytes > 0 {
		step := make([]byte, min(bytes, leakStep))
		for i := range step {
			step[i] = 1 // memory that was never written is not really taken
		}
		holding.mu.Lock()
		holding.latest.memory = append(holding.latest.memory, step)
		holding.mu.Unlock()
		bytes -= int64(len(step))
	}
}

// ReleaseHangs ends every hang and leak so far and waits for them: for unit
// tests that check for leaked goroutines.
func ReleaseHangs() {
	holding.mu.Lock()
	ending := holding.latest
	holding.latest = newHold()
	holding.mu.Unlock()
	close(ending.release)
	ending.hangs.Wait()
}
