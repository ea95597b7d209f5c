package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// envInherited carries an [Inherited] over a re-execution.
const envInherited = "OTELCOL_OPAMP_REEXEC"

// ErrNoReexec is returned by [Reexec] where the system has no execve.
var ErrNoReexec = errors.New("this system cannot replace a running process")

// Inherited is what a process that was re-executed knows from its former self.
type Inherited struct {
	// PID is the process for which it was meant. A child that was started with
	// a copy of the environment has another one.
	PID int `json:"pid"`
	// Reason is why the process was replaced.
	Reason string `json:"reason"`
	// At is when.
	At time.Time `json:"at"`
	// Args are the arguments with which the process was started by somebody
	// else; nil if they are its own.
	Args []string `json:"args,omitempty"`
	// Files are descriptors that were kept open, by name.
	Files map[string]uintptr `json:"files,omitempty"`
}

// Successor is what [Reexec] is to start.
type Successor struct {
	// Args are the arguments without the program's name; the process's own if
	// nil.
	Args []string
	// Original are the arguments that Args replace, to be handed over.
	Original []string
	// Reason is handed over.
	Reason string
	// Keep are files to be kept open, by name. They stay the caller's if Reexec
	// fails.
	Keep map[string]*os.File
}

// FromFormer returns what the process's former self handed over, if it was
// re-executed. It removes it from the environment, so that children do not
// inherit it, and remembers it. It is safe for concurrent use.
var FromFormer = sync.OnceValues(func() (Inherited, bool) {
	text := os.Getenv(envInherited)
	if text == "" {
		return Inherited{}, false
	}
	// The variable is ours alone; failing to remove it only costs cleanliness.
	_ = os.Unsetenv(envInherited)
	var i Inherited
	if err := json.Unmarshal([]byte(text), &i); err != nil || i.PID != os.Getpid() {
		return Inherited{}, false
	}
	return i, true
})

// File returns the descriptor that was kept open under name as a file, which
// the caller owns; nil if there is none.
func (i Inherited) File(name string) *os.File {
	fd, ok := i.Files[name]
	if !ok {
		return nil
	}
	closeOnExec(fd) // it was to survive one execve, not to be inherited by children
	return os.NewFile(fd, name)
}

// environment returns the environment of the successor.
func (s Successor) environment() ([]string, error) {
	i := Inherited{PID: os.Getpid(), Reason: s.Reason, At: time.Now(), Args: s.Original, Files: map[string]uintptr{}}
	for name, f := range s.Keep {
		i.Files[name] = f.Fd()
	}
	text, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("encoding what is handed over: %w", err)
	}
	env := []string{envInherited + "=" + string(text)}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, envInherited+"=") {
			env = append(env, entry)
		}
	}
	return env, nil
}
