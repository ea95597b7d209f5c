// Package process knows the running process: which executable it is, and how
// to recognize what it was started to do.
package process

import (
	"os"
	"runtime"
	"strings"
)

// Run and dryRun are the functions of the Collector's library below which a
// configuration is retrieved in order to run it, or to check it. A test pins
// the names against the library.
const (
	library        = "go.opentelemetry.io/collector/otelcol."
	runFunction    = library + "(*Collector).Run"
	dryRunFunction = library + "(*Collector).DryRun"
	printFunction  = library + "(*printContext)"
)

// Purpose says what a configuration is retrieved for.
type Purpose string

// The purposes.
const (
	// PurposeRun: the caller is a Collector that will run the configuration.
	PurposeRun Purpose = "run"
	// PurposeDryRun: the caller is the validate command.
	PurposeDryRun Purpose = "dry run"
	// PurposeOther: anything else, such as print-config or a test.
	PurposeOther Purpose = "other"
)

// CallerPurpose tells from the call stack what the calling goroutine retrieves
// a configuration for. Flags cannot tell: the commands share them, and a
// distribution may add commands of its own.
func CallerPurpose() Purpose {
	// 64 frames: Retrieve is called some ten frames below Run; custom mains
	// may wrap a few more.
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	underLibrary := false
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == runFunction:
			return PurposeRun
		case frame.Function == dryRunFunction:
			return PurposeDryRun
		case strings.HasPrefix(frame.Function, printFunction):
			return PurposeOther
		}
		underLibrary = underLibrary || strings.HasPrefix(frame.Function, library)
		if !more {
			if underLibrary {
				return PurposeOf(os.Args[1:])
			}
			return PurposeOther
		}
	}
}

// UnderCobra reports whether the calling goroutine runs a cobra command, whose
// finalizers are then called at its end.
func UnderCobra() bool {
	// 96 frames: cobra is some ten frames below Run, and that up to 64 above.
	var pcs [96]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		frame, more := frames.Next()
		if strings.HasPrefix(frame.Function, "github.com/spf13/cobra.(*Command).") {
			return true
		}
		if !more {
			return false
		}
	}
}

// PurposeOf tells the purpose from the arguments of a process, for a library
// whose functions have other names than the ones known here.
func PurposeOf(args []string) Purpose {
	for i, arg := range args {
		if strings.HasPrefix(arg, "-") || (i > 0 && (args[i-1] == "--config" || args[i-1] == "--set" || args[i-1] == "--feature-gates")) {
			continue
		}
		if arg == "validate" {
			return PurposeDryRun
		}
		return PurposeOther
	}
	return PurposeRun
}

// Executable returns a path that starts the very executable of this process:
// its own path while that is still the same file, else what the system offers
// for a file that was replaced or removed.
func Executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	path = strings.TrimSuffix(path, " (deleted)") // how Linux marks a removed file
	const self = "/proc/self/exe"
	running, err := os.Stat(self)
	if err != nil {
		return path, nil //nolint:nilerr // no /proc: the path is all there is
	}
	if onDisk, err := os.Stat(path); err == nil && os.SameFile(onDisk, running) {
		return path, nil
	}
	return self, nil
}
