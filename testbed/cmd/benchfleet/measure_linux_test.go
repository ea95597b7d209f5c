package main

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFewAgents runs the whole benchmark with few agents and short times. What it
// measures then says nothing, but for what is counted.
func TestFewAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a program, and takes half a minute")
	}
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "fleet.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "./internal/agent")
	build.Dir = filepath.Join("..", "..", "..")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))

	const agents = 50
	f, err := measure(t.Context(), options{
		binary: binary, folder: t.TempDir(), profiles: t.TempDir(),
		heartbeat: time.Second, idle: 3 * time.Second, trial: 100 * time.Millisecond, down: time.Second, pushes: 1, tls: true,
	}, agents)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, f.Beats, agents, "heartbeats")
	// A heartbeat has the instance UID, a number and capabilities, and the frame
	// of a WebSocket client and of TLS: more means that it carries something else.
	assert.Less(t, f.BeatSent, 90.0, "bytes per heartbeat")
	assert.Positive(t, f.AgentHeap)
	assert.Positive(t, f.ServerHeap)
	// Of those that a Collector's process has, ten are the agent's; 12 leaves room
	// for what has not ended yet.
	assert.LessOrEqual(t, f.AgentGoroutines, 12.0, "goroutines per agent")
	assert.Positive(t, f.Applied.P50)
	assert.GreaterOrEqual(t, f.Applied.Max, 100*time.Millisecond, "no shorter than the trial")
	assert.GreaterOrEqual(t, f.PushMessages, 2.0, "APPLYING and APPLIED")
	for _, s := range []storm{f.Restart, f.Outage} {
		assert.LessOrEqual(t, s.PeakSecond, 2*agents) // an attempt may be lost with the former server
		assert.Positive(t, s.All)
	}
	assert.Contains(t, table([]figures{f}), "| agents | 50 |")
}

func TestPeak(t *testing.T) {
	t.Parallel()
	at := func(seconds ...float64) (times []time.Time) {
		for _, s := range seconds {
			times = append(times, time.Unix(0, int64(s*1e9)))
		}
		return times
	}
	assert.Equal(t, 0, peak(nil, time.Second))
	assert.Equal(t, 3, peak(at(5, 0, 1, 1.5, 1.9), time.Second))
	assert.Equal(t, 1, peak(at(0, 1, 2), time.Second), "a period ends before its end")
}
