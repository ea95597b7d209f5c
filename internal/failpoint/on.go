//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Env is the environment variable that says what happens where.
const Env = "OTELCOL_OPAMP_FAILPOINT"

type action string

const (
	actionKill  action = "kill"
	actionError action = "error"
	actionHang  action = "hang"
	actionPanic action = "panic"
)

// rule is one entry of the list.
type rule struct {
	name   string // without the "*"
	prefix bool   // name is the begin of the names that match
	action action
	at     int // the hit at which the action is taken; 0 means all
	hits   int
}

func (r *rule) matches(name string) bool {
	if r.prefix {
		return strings.HasPrefix(name, r.name)
	}
	return name == r.name
}

// points are all rules of a process.
type points struct {
	// mu guards everything below.
	mu    sync.Mutex
	rules []*rule
}

// fromEnv holds what the environment said when it was first asked for.
var fromEnv = sync.OnceValue(func() *points {
	p, err := parse(os.Getenv(Env))
	if err != nil {
		panic(fmt.Errorf("reading %s: %w", Env, err))
	}
	return p
})

// Hit tells that the step called name is about to be done. It does what the
// environment says for it, and returns an error if that is to fail; nil
// otherwise. It may be called concurrently.
func Hit(name string) error { return fromEnv().hit(name) }

func parse(text string) (*points, error) {
	p := &points{}
	if text == "" {
		return p, nil
	}
	for entry := range strings.SplitSeq(text, ",") {
		name, what, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("entry %q is not of the form name=action[@n]", entry)
		}
		r := &rule{}
		r.name, r.prefix = strings.CutSuffix(name, "*")
		act, at, counted := strings.Cut(what, "@")
		r.action = action(act)
		switch r.action {
		case actionError:
		case actionKill, actionHang, actionPanic:
			r.at = 1
		default:
			return nil, fmt.Errorf("entry %q has the unknown action %q: use kill, error, hang or panic", entry, act)
		}
		if counted {
			n, err := strconv.Atoi(at)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("entry %q: %q is not the number of a hit: use 1 or more", entry, at)
			}
			r.at = n
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// due returns the action for one more hit of name; empty if there is none.
func (p *points) due(name string) action {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due action
	for _, r := range p.rules {
		if !r.matches(name) {
			continue
		}
		r.hits++ // of every rule that matches, whichever is taken
		if due == "" && (r.at == 0 || r.at == r.hits) {
			due = r.action
		}
	}
	return due
}

func (p *points) hit(name string) error {
	switch p.due(name) {
	case actionKill:
		kill()
		forever() // the signal is on its way
	case actionHang:
		forever()
	case actionPanic:
		panic("failpoint " + name)
	case actionError:
		return fmt.Errorf("failpoint %s: %w", name, syscall.ENOSPC)
	}
	return nil
}

// forever blocks. It sleeps because the runtime ends a process all of whose
// goroutines wait for each other.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
