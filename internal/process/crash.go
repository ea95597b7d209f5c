package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
// not the runtime's. It is empty if the file is missing or holds no crash. A
// symbolic link is not followed, which is an error.
func Crash(path string) (string, error) {
	data, err := readCrash(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the crash of the former process: %w", err)
	}
	return crash(string(data)), nil
}

func readCrash(path string) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // nothing was written
	info, err := root.Lstat(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	f, err := root.Open(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return io.ReadAll(io.LimitReader(f, maxCrash))
}

var (
	crashLine = regexp.MustCompile(`(?m)^(?:panic: |fatal error: |\[signal SIG|unexpected fault address |SIG[A-Z]+: ).*`)
	// runningLine begins the goroutine that crashed; the others wait.
	runningLine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[running.*\]:$`)
	// fatalCaller is the function that gave up; memoryFunction those that do so
	// when the system gives no memory.
	fatalCaller    = regexp.MustCompile(`(?m)^runtime\.(?:throw|fatal)\(.*\n.*\n(runtime\.[\w.()*]+)\(`)
	memoryFunction = regexp.MustCompile(`^runtime\.(?:sys(?:Map|Used|Reserve|Alloc)\w*|persistentalloc\w*|\(\*mheap\)\.\w+)$`)
	frameLine      = regexp.MustCompile(`(?m)^((?:[\w.-]+/)*[\w.-]+\.\S+)\(.*\)$`)
)

func crash(text string) string {
	m := crashLine.FindStringIndex(text)
	if m == nil {
		// The runtime prints the message of a fatal error before it begins to
		// write to the file.
		if m = fatalCaller.FindStringSubmatchIndex(text); m == nil {
			return ""
		}
	}
	message := text[m[0]:m[1]]
	if len(m) > 2 {
		message = "fatal error in " + text[m[2]:m[3]]
		if memoryFunction.MatchString(text[m[2]:m[3]]) {
			message = "fatal error: out of memory"
		}
	}
	first, _, _ := strings.Cut(text[m[1]:], "\n\ngoroutine ")
	if at := runningLine.FindStringIndex(text); at != nil {
		first, _, _ = strings.Cut(text[at[1]:], "\n\n")
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
// path too. What was there is removed: a symbolic link, or a second name of some
// other file, is not written through. The file is readable for its owner only.
func RecordCrash(path string) error {
	f, err := createCrash(path)
	if err != nil {
		return fmt.Errorf("opening the file for crashes: %w", err)
	}
	defer f.Close() //nolint:errcheck // the runtime has a descriptor of its own
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("setting the file for crashes: %w", err)
	}
	return nil
}

func createCrash(path string) (*os.File, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // the file is open
	if err := root.Remove(filepath.Base(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return root.OpenFile(filepath.Base(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
