package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
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
	// Args are the arguments with which the process was started by somebody
	// else; nil if they are its own.
	Args []string `json:"args,omitempty"`
	// State is what the successor must know even if nothing can be written.
	State map[string]json.RawMessage `json:"state,omitempty"`
	// Files are descriptors that were kept open, by name.
	Files map[string]uintptr `json:"files,omitempty"`
	// GOGC is the variable as it was: a process that starts has little to
	// collect, and looking for it takes a tenth of the time to its first
	// configuration. Nil if it was not changed.
	GOGC *string `json:"gogc,omitempty"`
	// Children are those that the process had before it first ran: an
	// entrypoint that replaced itself by this program left them.
	Children []int `json:"children,omitempty"`
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
	// State is handed over.
	State map[string]json.RawMessage
	// Keep are files to be kept open, by name. They stay the caller's if Reexec
	// fails.
	Keep map[string]*os.File
	// Told, if not nil, returns the signal that told this process to end; nil if
	// there was none. It is called when every signal that comes from now on ends
	// the process by itself, so that none is lost.
	Told func() os.Signal
}

// FromFormer returns what the process's former self handed over, if it was
// re-executed. It removes it from the environment, so that children do not
// inherit it, remembers it, and ends the children that the former self left:
// they belonged to components that are gone. It must be called before anything
// starts children. It is safe for concurrent use.
var FromFormer = sync.OnceValues(func() (Inherited, bool) {
	i, ok := fromFormer()
	if ok {
		collectAgain(i.GOGC)
		endChildren(i.Children)
		foreign = i.Children
	} else {
		foreign = children()
	}
	return i, ok
})

// gogc is the variable that says how often Go's runtime collects garbage.
const gogc = "GOGC"

// collectAgain restores what environment has changed.
func collectAgain(was *string) {
	if was == nil {
		return
	}
	percent := 100 // the runtime's default
	if *was == "" {
		_ = os.Unsetenv(gogc) // children would inherit it, no more
	} else {
		_ = os.Setenv(gogc, *was)
		if n, err := strconv.Atoi(*was); err == nil {
			percent = n
		} else if *was == "off" {
			percent = -1
		}
	}
	debug.SetGCPercent(percent)
}

// foreign are the children that are not this program's. It is written once, by
// FromFormer.
var foreign []int

func fromFormer() (Inherited, bool) {
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
	for _, fd := range i.Files {
		closeOnExec(fd) // it was to survive one execve, not to be inherited by children
	}
	return i, true
}

// taking guards Inherited.Files, which all copies share.
var taking sync.Mutex

// File returns the descriptor that was kept open under name as a file, which
// the caller owns; nil if there is none. Each is given away once.
func (i Inherited) File(name string) *os.File {
	taking.Lock()
	defer taking.Unlock()
	fd, ok := i.Files[name]
	if !ok {
		return nil
	}
	delete(i.Files, name)
	return os.NewFile(fd, name)
}

// environment returns the environment of the successor.
func (s Successor) environment() ([]string, error) {
	_, _ = FromFormer() // whose children are whose is known from the start of the process
	i := Inherited{PID: os.Getpid(), Reason: s.Reason, Args: s.Original, State: s.State, Files: map[string]uintptr{}, Children: foreign}
	for name, f := range s.Keep {
		i.Files[name] = f.Fd()
	}
	was := os.Getenv(gogc)
	i.GOGC = &was
	text, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("encoding what is handed over: %w", err)
	}
	env := []string{envInherited + "=" + string(text), gogc + "=off"}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, envInherited+"=") && !strings.HasPrefix(entry, gogc+"=") {
			env = append(env, entry)
		}
	}
	return env, nil
}
