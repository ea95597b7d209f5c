package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

const (
	// maxCrash is how much of a crash is looked at, in bytes: the first
	// goroutine is the one that crashed, and comes first.
	maxCrash = 64 << 10
	// maxFrames is how many functions of the crashed goroutine are told.
	maxFrames = 3
)

// Crash returns what the Go runtime wrote to the file at path when a former
// process crashed, in one line: the message and the topmost functions that are
// not the runtime's. It is empty if the file is missing or holds no crash.
func Crash(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // a file in the state folder
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the crash of the former process: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, maxCrash))
	if err != nil {
		return "", fmt.Errorf("reading the crash of the former process: %w", err)
	}
	return crash(string(data)), nil
}

var (
	crashLine = regexp.MustCompile(`(?m)^(?:panic: |fatal error: |\[signal SIG|unexpected fault address |SIG[A-Z]+: ).*`)
	frameLine = regexp.MustCompile(`(?m)^((?:[\w.-]+/)*[\w.-]+\.\S+)\(.*\)$`)
)

func crash(text string) string {
	m := crashLine.FindStringIndex(text)
	if m == nil {
		return ""
	}
	message := text[m[0]:m[1]]
	first, _, _ := strings.Cut(text[m[1]:], "\n\ngoroutine ")
	if _, rest, ok := strings.Cut(text[m[1]:], "\ngoroutine "); ok {
		first, _, _ = strings.Cut(rest, "\n\n")
	}
	var frames []string
	for _, f := range frameLine.FindAllStringSubmatch(first, -1) {
		name := f[1]
		if strings.HasPrefix(name, "runtime.") || strings.HasPrefix(name, "panic") || strings.HasPrefix(name, "created by ") {
			continue
		}
		if frames = append(frames, name); len(frames) == maxFrames {
			break
		}
	}
	if len(frames) > 0 {
		message += " in " + strings.Join(frames, " < ")
	}
	return message
}

// Panicking returns where the calling goroutine panicked, if it is unwinding
// because of that: the topmost functions that are not the runtime's. The
// panic's message is out of reach of a function that does not recover.
func Panicking() (where string, panicking bool) {
	// 128 frames: the panic is above the deferred calls that led here, and a
	// component's Start some twenty frames above that.
	var pcs [128]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	var names []string
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			panicking = true
		case panicking && !strings.HasPrefix(frame.Function, "runtime.") && len(names) < maxFrames:
			names = append(names, frame.Function)
		}
		if !more {
			return strings.Join(names, " < "), panicking
		}
	}
}

// RecordCrash makes the Go runtime write a crash of this process to the file at
// path too, which it truncates. The file is readable for its owner only.
func RecordCrash(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // a file in the state folder
	if err != nil {
		return fmt.Errorf("opening the file for crashes: %w", err)
	}
	defer f.Close() //nolint:errcheck // the runtime has a descriptor of its own
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("setting the file for crashes: %w", err)
	}
	return nil
}
