package compare

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// straight is a world in which the clients send to the sink itself.
func straight(t *testing.T, binary string, args ...string) *World {
	t.Helper()
	w := &World{settings: Settings{Rate: 500, PatientRate: 100}, dir: t.TempDir()}
	t.Cleanup(func() { assert.NoError(t, w.Stop(context.Background())) })
	var err error
	w.sink, err = sink.Start(sink.Settings{})
	require.NoError(t, err)
	w.otlp = w.sink.Endpoint()
	w.service, err = startService(otelcol.Settings{Binary: binary, Args: args})
	if err != nil {
		t.Skip("no such program:", err)
	}
	return w
}

func TestWatchLoad(t *testing.T) {
	t.Parallel()
	w := straight(t, "sleep", "60")
	const d = 200 * time.Millisecond
	u, err := w.WatchLoad(patiently(t), d)
	require.NoError(t, err)
	assert.Positive(t, u.P99)
	assert.Less(t, u.P99, patience)
	assert.Greater(t, u.Throughput, 2*w.settings.Rate, "more than the steady load")
	assert.Equal(t, 1, u.Use.Processes)
	assert.Positive(t, u.Use.PSS)
	uses, err := WatchIdle(patiently(t), []*World{w, w}, d)
	require.NoError(t, err)
	require.Len(t, uses, 2)
	assert.GreaterOrEqual(t, uses[0].CPU, 0.0)
	assert.Less(t, uses[0].CPU, 0.1, "a process that sleeps")
}

// A Collector that is not managed finds the configuration in its file when it is told
// to look.
func TestSignal(t *testing.T) {
	t.Parallel()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored, as under nohup: a shell cannot listen for it then")
	}
	w := straight(t, "sh", "-c", `trap "echo seen" HUP; echo ready; while :; do sleep 0.01; done`)
	require.NoError(t, w.service.running().WaitLog(patiently(t), "ready"))
	sent := w.offer(candidate{raw: "the text\n"}, "")
	require.NoError(t, sent.err)
	require.NoError(t, w.service.running().WaitLog(patiently(t), "seen"))
	content, err := os.ReadFile(filepath.Join(w.dir, remoteName))
	require.NoError(t, err)
	assert.Equal(t, "the text\n", string(content))
}

func TestSpareListens(t *testing.T) {
	t.Parallel()
	w := straight(t, "sleep", "60")
	w.spare = w.sink.Endpoint()
	at, err := w.spareListens(patiently(t))
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), at, patience)
	w.spare, err = otelcol.FreeAddr()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = w.spareListens(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestWants(t *testing.T) {
	t.Parallel()
	long := Row{Name: BadAfterASecond, after: time.Second}
	assert.False(t, (&Settings{Trial: time.Second}).wants(long), "the trial is over by then")
	assert.True(t, (&Settings{Trial: 2 * time.Second}).wants(long))
	assert.True(t, (&Settings{Trial: time.Second, Rows: "sigsegv"}).wants(Row{Name: SegvInTrial}))
	assert.False(t, (&Settings{Trial: time.Second, Rows: "yaml"}).wants(Row{Name: SegvInTrial}))
	assert.False(t, (&Settings{Trial: time.Second, Only: []string{InvalidYAML}}).wants(Row{Name: SegvInTrial}))
	assert.True(t, (&Settings{Trial: time.Second, Only: []string{SegvInTrial}}).wants(Row{Name: SegvInTrial}))
}

// Systems that run at the same time must not share the pages of their executables.
func TestCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := Settings{Copies: filepath.Join(dir, "bin"), Collector: filepath.Join(dir, "ours"), Supervised: filepath.Join(dir, "theirs"), Supervisor: filepath.Join(dir, "supervisor")}
	for _, path := range []string{s.Collector, s.Supervised, s.Supervisor} {
		require.NoError(t, os.WriteFile(path, []byte(path), 0o600))
	}
	for range 2 { // the second time they are there
		for key, names := range map[string][]string{Ours: {"ours"}, Floor: {"ours"}, SupervisorHUP: {"theirs", "supervisor"}} {
			sys, err := copied(s, key)
			require.NoError(t, err)
			assert.Equal(t, key, sys.Key)
			for _, name := range names {
				path := filepath.Join(s.Copies, key, name)
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				assert.Equal(t, filepath.Join(dir, name), string(content))
				info, err := os.Stat(path)
				require.NoError(t, err)
				assert.NotZero(t, info.Mode()&0o100, "it can be run")
			}
		}
	}
	_, err := copied(Settings{Copies: dir, Collector: filepath.Join(dir, "missing")}, Guard)
	require.ErrorIs(t, err, os.ErrNotExist)
}
