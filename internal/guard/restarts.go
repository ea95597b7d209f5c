package guard

import "time"

const (
	// restartCost is how long a child must have lived to pay for one restart at
	// once. It is the interval in which systemd counts starts by default, and
	// so seldom that even a start of a second is a load of one tenth at most.
	restartCost = 10 * time.Second
	// maxCredit is what is kept: five restarts, as many as systemd allows by
	// default, and enough for the child's own ladder, whose fifth start is in
	// safe mode.
	maxCredit = 5 * restartCost
	// settledAfter is the life by which a child shows that it can be started:
	// the 10 s within which one that cannot ends, after the minute that the
	// agent pauses at most before a start that follows failed ones.
	settledAfter = 70 * time.Second
	// maxDeaths is how many children that never settled are enough to give up:
	// the ladder has been tried then (see maxCredit).
	maxDeaths = 5
	// firstPause is the pause before a restart without credit; it doubles up to
	// maxPause, at which even the slowest repair is noticed within a minute.
	firstPause = time.Second
	maxPause   = time.Minute
)

// restarts decides when a child that died is started again. It has no clock: it
// is told how long each child lived.
type restarts struct {
	credit  time.Duration // life that was not paid with yet
	settled bool          // some child lived for settledAfter
	deaths  int           // before one did
	next    time.Duration // the next pause
}

func newRestarts() restarts { return restarts{credit: maxCredit, next: firstPause} }

// died takes note of a death and returns how long to wait before the next start,
// or that there is to be none.
func (r *restarts) died(lived time.Duration) (pause time.Duration, giveUp bool) {
	r.credit = min(r.credit+lived, maxCredit)
	if lived >= settledAfter {
		r.settled, r.next = true, firstPause
	}
	if !r.settled {
		r.deaths++
		if r.deaths == maxDeaths {
			return 0, true
		}
	}
	if r.credit >= restartCost {
		r.credit -= restartCost
		return 0, false
	}
	pause = r.next
	r.next = min(2*r.next, maxPause)
	return pause, false
}
