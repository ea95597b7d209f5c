package fault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Action is a word of the `then`, `in_start` and `control` settings: something
// that a running component does.
type Action string

// The actions. What each does is described at Component.do.
const (
	PermanentError   Action = "permanent_error"
	RecoverableError Action = "recoverable_error"
	FatalError       Action = "fatal_error"
	Panic            Action = "panic"
	Exit             Action = "exit"
	Segv             Action = "segv"
	OK               Action = "ok"
	Leak             Action = "leak"
)

// Actions lists the valid words.
func Actions() []Action {
	return []Action{PermanentError, RecoverableError, FatalError, Panic, Exit, Segv, OK, Leak}
}

// defaultLeakBytes stands out clearly in the memory of a Collector and harms no
// machine that runs tests.
const defaultLeakBytes = 64 << 20

// Config is the configuration that the fault receiver, exporter and extension
// share. Everything is off by default: such a component works.
//
// The Collector makes one component for each signal of a receiver's or exporter's
// block, and each of them does what is configured: a block that is used in traces
// and metrics pipelines reports each status twice, leaks twice. (Two fatal errors
// at a time deadlock Collector v0.158, whatever reports them: use one signal to
// see a fatal error handled.)
type Config struct {
	// FailCreate makes the factory return an error.
	FailCreate bool `mapstructure:"fail_create"`
	// PanicCreate makes the factory panic.
	PanicCreate bool `mapstructure:"panic_create"`
	// HangCreate makes the factory never return.
	HangCreate bool `mapstructure:"hang_create"`
	// LeakCreate makes the factory do what the action `leak` does.
	LeakCreate bool `mapstructure:"leak_create"`

	// FailStart makes Start return an error.
	FailStart bool `mapstructure:"fail_start"`
	// PanicStart makes Start panic.
	PanicStart bool `mapstructure:"panic_start"`
	// HangStart makes Start never return.
	HangStart bool `mapstructure:"hang_start"`
	// InStart is an action that Start executes itself before it returns.
	InStart Action `mapstructure:"in_start"`

	// FailShutdown makes Shutdown return an error, after it has cleaned up.
	FailShutdown bool `mapstructure:"fail_shutdown"`
	// HangShutdown makes Shutdown never return, after it has cleaned up.
	HangShutdown bool `mapstructure:"hang_shutdown"`

	// After is how long after Start the action of Then is executed, 0 for at once.
	After time.Duration `mapstructure:"after"`
	// Then is an action that is executed in a goroutine of its own.
	Then Action `mapstructure:"then"`
	// Control is the path of a file that is polled every 10 ms. Whenever its
	// content changes to an action, optionally followed by a space and any text
	// that makes it different from the last one, the action is executed. What it
	// contains at Start is not executed.
	Control string `mapstructure:"control"`

	// Listen is a TCP address that is bound from Start to Shutdown. Components
	// made from one block, for several signals, share the listener.
	Listen string `mapstructure:"listen"`
	// Message replaces the text of errors and panics. The default text names the
	// component and the setting.
	Message string `mapstructure:"message"`
	// LeakBytes is how much memory `leak` takes, in bytes.
	LeakBytes int64 `mapstructure:"leak_bytes"`
}

// DefaultConfig is the configuration without faults.
func DefaultConfig() Config { return Config{LeakBytes: defaultLeakBytes} }

// Validate reports every setting that cannot be understood.
func (c *Config) Validate() error {
	errs := []error{validateAction("in_start", c.InStart), validateAction("then", c.Then)}
	if c.After < 0 {
		errs = append(errs, fmt.Errorf("after: must not be negative, is %s", c.After))
	}
	if c.After > 0 && c.Then == "" {
		errs = append(errs, errors.New("after: needs `then`: "+validWords()))
	}
	if c.LeakBytes < 0 {
		errs = append(errs, fmt.Errorf("leak_bytes: must not be negative, is %d", c.LeakBytes))
	}
	return errors.Join(errs...)
}

func validateAction(key string, a Action) error {
	if a == "" || slices.Contains(Actions(), a) {
		return nil
	}
	return fmt.Errorf("%s: %q is unknown: %s", key, a, validWords())
}

func validWords() string {
	words := make([]string, 0, len(Actions()))
	for _, a := range Actions() {
		words = append(words, string(a))
	}
	return "must be one of " + strings.Join(words, ", ")
}
