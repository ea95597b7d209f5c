package agent

import "sync"

// queue hands functions to the agent's goroutine in the order in which they
// were posted. It is unbounded: those who post hold locks of the host and must
// never wait (design, section 4, facts of the host). What floods (offers) is
// coalesced before it is posted.
type queue struct {
	wake chan struct{} // one slot: full means that the goroutine will look anyway

	// mu guards everything below.
	mu     sync.Mutex
	items  []func()
	closed bool
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// post adds f. It returns false if the queue is closed.
func (q *queue) post(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.items = append(q.items, f)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes and returns all items.
func (q *queue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// close makes post fail. Items that were posted before remain.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.items) == 0
}
