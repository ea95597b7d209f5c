package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// Env is the variable that makes the provider of the child serve a candidate.
// Its value is a [Candidate] as text. The provider honors it only under the
// validate command.
const Env = "OTELCOL_OPAMP_DRY_RUN"

// None is the candidate "no remote configuration".
const None = "none"

const (
	// memoryLimit is the most memory a child may use, in bytes. The largest
	// distributions were seen to need 90 MB.
	memoryLimit = 512 << 20
	// softMemoryLimit and noCollection make the child's garbage collector work
	// only when it comes near the limit: a dry run is over before.
	softMemoryLimit = "GOMEMLIMIT=400MiB"
	noCollection    = "GOGC=off"
	// maxOutput is how much of the child's output is kept, in bytes: its head,
	// where a panic names its cause, and its tail, where an error does.
	maxOutput = 32 << 10
	// reapDelay bounds the wait for the child's output after it was killed; a
	// grandchild may hold the pipe open.
	reapDelay = time.Second
)

// Settings say what to run.
type Settings struct {
	// Executable is the program; the running process's own if empty.
	Executable string
	// Args are the arguments of the running process without its name.
	Args []string
	// Candidate is the value of [Env].
	Candidate string
	// Timeout is the most time the child may take.
	Timeout time.Duration
}

// Outcome is the answer.
type Outcome struct {
	// Reason is why the configuration is refused; empty if it is not. It may
	// contain secrets and be long; scrub it before it leaves the process.
	Reason string
	// Transient means that the failure says nothing about the configuration.
	Transient bool
}

// Run runs the child and waits for its end. If ctx ends, the child is killed
// and the outcome is transient. It is safe for concurrent use.
func Run(ctx context.Context, set Settings) Outcome {
	executable := set.Executable
	if executable == "" {
		var err error
		if executable, err = process.Executable(); err != nil {
			return Outcome{Reason: fmt.Sprintf("finding the executable for the dry run: %v", err), Transient: true}
		}
	}
	limited, cancel := context.WithTimeout(ctx, set.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, executable, append([]string{"validate"}, set.Args...)...) //nolint:gosec // our own executable and arguments
	cmd.Env = append(os.Environ(), Env+"="+set.Candidate, softMemoryLimit, noCollection)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = reapDelay
	err := runIsolated(cmd, memoryLimit)
	switch {
	case err == nil:
		return Outcome{}
	case ctx.Err() != nil:
		return Outcome{Reason: "the dry run was interrupted", Transient: true}
	case limited.Err() != nil:
		return Outcome{Reason: fmt.Sprintf("the dry run did not end within preflight_timeout (%s)", set.Timeout)}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return Outcome{Reason: fmt.Sprintf("starting the dry run: %v", err), Transient: true}
	}
	return Outcome{Reason: reason(out.String(), exit)}
}

// Candidate is what a dry run is given instead of what runs.
type Candidate struct {
	// Digest is that of a remote configuration; [None] for none.
	Digest string
	// Values is the digest of its values; empty for none.
	Values string
	// Name is the agent's.
	Name string
}

// String returns c as the value of [Env].
func (c Candidate) String() string {
	text := c.Digest
	if c.Values != "" {
		text += "+" + c.Values
	}
	if c.Name != "" {
		text += "@" + c.Name
	}
	return text
}

// ParseCandidate reads the value of [Env].
func ParseCandidate(value string) Candidate {
	digests, name, _ := strings.Cut(value, "@")
	digest, values, _ := strings.Cut(digests, "+")
	return Candidate{Digest: digest, Values: values, Name: name}
}

var (
	// errorLine begins what cobra prints about a failed command; it may go on
	// over several lines.
	errorLine = regexp.MustCompile(`(?m)^Error: `)
	panicLine = regexp.MustCompile(`(?m)^panic: .*`)
	// memoryLine is what the Go runtime prints, among other lines, when it gets
	// no memory.
	memoryLine = regexp.MustCompile(`(?m)^.*(?:out of memory|cannot allocate memory).*`)
	// fatalLine begins what the Go runtime prints when it gives up.
	fatalLine = regexp.MustCompile(`(?m)^(?:fatal error|runtime): .*`)
	// frame matches a function in a stack trace that is not the runtime's.
	frame = regexp.MustCompile(`(?m)^((?:[\w.-]+/)+[^\s(]+(?:\(\*?\w+\)[^\s(]*)?)\(`)
)

// reason finds out what the child died of.
func reason(text string, exit *exec.ExitError) string {
	if m := panicLine.FindStringIndex(text); m != nil {
		line := strings.TrimPrefix(text[m[0]:m[1]], "panic: ")
		where := ""
		if f := frame.FindStringSubmatch(text[m[1]:]); f != nil {
			where = " in " + f[1]
		}
		return "the dry run panicked" + where + ": " + line
	}
	if m := fatalLine.FindString(text); m != "" {
		if memory := memoryLine.FindString(text); memory != "" {
			m = fmt.Sprintf("%s (its limit is %d MiB)", memory, memoryLimit>>20)
		}
		return "the dry run died: " + m
	}
	if m := errorLine.FindStringIndex(text); m != nil {
		return strings.TrimSpace(text[m[1]:])
	}
	text = strings.TrimSpace(text)
	if text == "" {
		text = "it printed nothing"
	}
	return fmt.Sprintf("the dry run ended with %s: %s", exit.ProcessState, text)
}

// output keeps the head and the tail of what is written to it. os/exec writes
// to it from one goroutine.
type output struct {
	head, tail bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	if free := maxOutput/2 - o.head.Len(); free > 0 {
		take := min(free, len(p))
		o.head.Write(p[:take])
		p = p[take:]
	}
	o.tail.Write(p)
	if extra := o.tail.Len() - maxOutput/2; extra > 0 {
		o.tail.Next(extra)
	}
	return n, nil
}

func (o *output) String() string { return o.head.String() + o.tail.String() }
