package preflight_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
)

// TestMain lets the test binary play the Collector's validate command.
func TestMain(m *testing.M) {
	if behavior := os.Getenv("PREFLIGHT_TEST_CHILD"); behavior != "" {
		child(behavior)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func child(behavior string) {
	switch behavior {
	case "good":
		if os.Args[1] != "validate" || os.Args[2] != "--config=opamp:" || os.Getenv(preflight.Env) != "d1@edge" || os.Getenv("GOMEMLIMIT") == "" {
			fmt.Fprintln(os.Stderr, "Error: called wrongly:", os.Args)
			os.Exit(1)
		}
	case "error":
		fmt.Fprintln(os.Stderr, "some log line\nError: invalid configuration: exporters::x: `y` must be set\nreceivers::z: unknown key")
		os.Exit(1)
	case "panic":
		panic("the factory is broken")
	case "silent":
		os.Exit(7)
	case "hang":
		select {}
	case "leak":
		var hold [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hold = append(hold, b)
			_ = hold
		}
	case "noise":
		fmt.Println(strings.Repeat("noise\n", 1<<20))
		fmt.Fprintln(os.Stderr, "Error: after all the noise")
		os.Exit(1)
	}
}

func run(t *testing.T, ctx context.Context, behavior string, timeout time.Duration) preflight.Outcome { //nolint:revive // the test's context is an argument of its own
	t.Helper()
	t.Setenv("PREFLIGHT_TEST_CHILD", behavior)
	return preflight.Run(ctx, preflight.Settings{Executable: os.Args[0], Args: []string{"--config=opamp:"}, Candidate: "d1@edge", Timeout: timeout})
}

func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		behavior string
		want     string
	}{
		{"good", ""},
		{"error", "invalid configuration: exporters::x: `y` must be set\nreceivers::z: unknown key"},
		{"panic", "the dry run panicked in github.com/otelcol-opamp/otelcol-opamp/internal/preflight_test.child: the factory is broken"},
		{"silent", "the dry run ended with exit status 7: it printed nothing"},
		{"noise", "after all the noise"},
	} {
		t.Run(tt.behavior, func(t *testing.T) {
			assert.Equal(t, preflight.Outcome{Reason: tt.want}, run(t, t.Context(), tt.behavior, time.Minute))
		})
	}
}

func TestChildThatNeverEndsIsKilled(t *testing.T) {
	assert.Equal(t, preflight.Outcome{Reason: "the dry run did not end within preflight_timeout (200ms)"},
		run(t, t.Context(), "hang", 200*time.Millisecond))
}

func TestInterruptedDryRunIsNoVerdict(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	assert.Equal(t, preflight.Outcome{Reason: "the dry run was interrupted", Transient: true}, run(t, ctx, "hang", time.Minute))
}

func TestMissingExecutableIsNoVerdict(t *testing.T) {
	got := preflight.Run(t.Context(), preflight.Settings{Executable: "/nonexistent", Timeout: time.Second})
	assert.True(t, got.Transient)
	assert.Contains(t, got.Reason, "starting the dry run")
}

func TestParseCandidate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]preflight.Candidate{
		"abc@a@b":   {Digest: "abc", Name: "a@b"},
		"abc":       {Digest: "abc"},
		"none+def":  {Digest: preflight.None, Values: "def"},
		"abc+def@x": {Digest: "abc", Values: "def", Name: "x"},
	} {
		assert.Equal(t, want, preflight.ParseCandidate(text))
		assert.Equal(t, text, want.String())
	}
}
