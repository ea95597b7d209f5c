package fault_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault"
)

// actionVariable makes the test binary execute an action instead of the tests:
// those that end a process can only be watched from outside.
const actionVariable = "FAULT_TEST_ACTION"

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	switch action := os.Getenv(actionVariable); action {
	case "":
	case "hang_create":
		cfg := fault.Config{HangCreate: true}
		_, _ = os.Stdout.WriteString("hanging\n") // the test waits for it
		_, _ = fault.New("receiver", testID, zap.NewNop(), &cfg)
	default:
		die(fault.Action(action))
	}
	goleak.VerifyTestMain(m)
}

// die executes an action that must end the process.
func die(action fault.Action) {
	cfg := fault.DefaultConfig()
	cfg.Then = action
	c, err := fault.New("receiver", testID, zap.NewNop(), &cfg)
	if err == nil {
		err = c.Start(context.Background(), new(statusHost))
	}
	if err != nil {
		panic(err)
	}
	select {}
}

var testID = component.MustNewIDWithName("fault", "a")

// statusHost hands on reported statuses.
type statusHost struct {
	mu     sync.Mutex
	events []*componentstatus.Event
}

func (*statusHost) GetExtensions() map[component.ID]component.Component { return nil }

// Report implements componentstatus.Reporter.
func (h *statusHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *statusHost) reported() []*componentstatus.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*componentstatus.Event(nil), h.events...)
}

func create(t *testing.T, change func(*fault.Config)) *fault.Component {
	t.Helper()
	cfg := fault.DefaultConfig()
	change(&cfg)
	c, err := fault.New("receiver", testID, zap.NewNop(), &cfg)
	require.NoError(t, err)
	return c
}

func TestWithoutFaultsItWorks(t *testing.T) {
	c := create(t, func(*fault.Config) {})
	require.NoError(t, c.Start(t.Context(), new(statusHost)))
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestFailures(t *testing.T) {
	cfg := fault.Config{FailCreate: true}
	_, err := fault.New("receiver", testID, zap.NewNop(), &cfg)
	require.EqualError(t, err, `receiver "fault/a" fails on demand (fail_create)`)
	cfg = fault.Config{PanicCreate: true, Message: "boom"}
	require.PanicsWithValue(t, "boom", func() { _, _ = fault.New("receiver", testID, zap.NewNop(), &cfg) })

	c := create(t, func(c *fault.Config) { c.FailStart, c.FailShutdown, c.Message = true, true, "no disk" })
	require.EqualError(t, c.Start(t.Context(), new(statusHost)), "no disk")
	require.EqualError(t, c.Shutdown(t.Context()), "no disk")
	c = create(t, func(c *fault.Config) { c.PanicStart = true })
	require.Panics(t, func() { _ = c.Start(t.Context(), new(statusHost)) })
	c = create(t, func(c *fault.Config) { c.InStart = fault.Panic })
	require.PanicsWithValue(t, `receiver "fault/a" fails on demand (panic)`, func() { _ = c.Start(t.Context(), new(statusHost)) })
}

func TestHangs(t *testing.T) {
	// Not parallel: ReleaseHangs ends every hang of the process.
	tests := map[string]func(t *testing.T, cfg *fault.Config){
		"create": func(t *testing.T, cfg *fault.Config) {
			cfg.HangCreate = true
			_, err := fault.New("receiver", testID, zap.NewNop(), cfg)
			assert.NoError(t, err)
		},
		"start": func(t *testing.T, cfg *fault.Config) {
			cfg.HangStart = true
			c, err := fault.New("receiver", testID, zap.NewNop(), cfg)
			assert.NoError(t, err)
			assert.NoError(t, c.Start(t.Context(), new(statusHost)))
			assert.NoError(t, c.Shutdown(t.Context()))
		},
		"shutdown": func(t *testing.T, cfg *fault.Config) {
			cfg.HangShutdown = true
			c, err := fault.New("receiver", testID, zap.NewNop(), cfg)
			assert.NoError(t, err)
			assert.NoError(t, c.Shutdown(t.Context()))
		},
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{})
			cfg := fault.DefaultConfig()
			go func() {
				defer close(ended)
				run(t, &cfg)
			}()
			select {
			case <-ended:
				t.Fatal("returned without being released")
			case <-time.After(50 * time.Millisecond): // a hang can only be seen by waiting
			}
			for released := false; !released; {
				fault.ReleaseHangs()
				select {
				case <-ended:
					released = true
				case <-time.After(time.Millisecond): // it had not begun to hang yet
				}
			}
		})
	}
}

func TestStatusAfterStart(t *testing.T) {
	tests := map[fault.Action]componentstatus.Status{
		fault.OK:               componentstatus.StatusOK,
		fault.RecoverableError: componentstatus.StatusRecoverableError,
		fault.PermanentError:   componentstatus.StatusPermanentError,
		fault.FatalError:       componentstatus.StatusFatalError,
	}
	for action, want := range tests {
		t.Run(string(action), func(t *testing.T) {
			host := new(statusHost)
			c := create(t, func(c *fault.Config) { c.Then, c.After = action, time.Millisecond })
			require.NoError(t, c.Start(t.Context(), host))
			require.Eventually(t, func() bool { return len(host.reported()) == 1 }, patience, time.Millisecond, "status is reported")
			require.NoError(t, c.Shutdown(t.Context()))
			assert.Equal(t, want, host.reported()[0].Status())
			if action != fault.OK {
				require.EqualError(t, host.reported()[0].Err(), `receiver "fault/a" fails on demand (`+string(action)+`)`)
			}

			host = new(statusHost)
			c = create(t, func(c *fault.Config) { c.InStart = action })
			require.NoError(t, c.Start(t.Context(), host))
			require.Len(t, host.reported(), 1)
			require.NoError(t, c.Shutdown(t.Context()))
		})
	}
}

func TestShutdownComesBeforeThen(t *testing.T) {
	host := new(statusHost)
	c := create(t, func(c *fault.Config) { c.Then, c.After = fault.FatalError, time.Hour })
	require.NoError(t, c.Start(t.Context(), host))
	require.NoError(t, c.Shutdown(t.Context()))
	assert.Empty(t, host.reported())
}

func TestControlFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	command := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	command("fatal_error\n") // left by an earlier command: must not be executed
	host := new(statusHost)
	c := create(t, func(c *fault.Config) { c.Control = path })
	require.NoError(t, c.Start(t.Context(), host))
	want := 0
	for _, text := range []string{"permanent_error", "ok", "ok 2\n", "nonsense", "recoverable_error x y"} {
		command(text)
		if text == "nonsense" {
			continue
		}
		want++
		require.Eventually(t, func() bool { return len(host.reported()) == want }, patience, time.Millisecond, text)
	}
	require.NoError(t, c.Shutdown(t.Context()))
	last := host.reported()[want-1]
	assert.Equal(t, componentstatus.StatusRecoverableError, last.Status())
}

func TestListen(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := taken.Addr().String()
	cfg := fault.DefaultConfig()
	cfg.Listen = addr
	start := func() *fault.Component {
		c, createErr := fault.New("receiver", testID, zap.NewNop(), &cfg)
		require.NoError(t, createErr)
		return c
	}
	first := start()
	require.ErrorContains(t, first.Start(t.Context(), new(statusHost)), `listening on "`+addr+`"`)
	require.NoError(t, first.Shutdown(t.Context()))
	require.NoError(t, taken.Close())

	// Two signals of one block share the listener, the last one closes it.
	first, second := start(), start()
	require.NoError(t, first.Start(t.Context(), new(statusHost)))
	require.NoError(t, second.Start(t.Context(), new(statusHost)))
	require.NoError(t, first.Shutdown(t.Context()))
	_, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.Error(t, err)
	require.NoError(t, second.Shutdown(t.Context()))
	taken, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	require.NoError(t, taken.Close())
}

func TestLeak(t *testing.T) {
	cfg := fault.Config{LeakCreate: true, LeakBytes: 3<<20 + 1}
	_, err := fault.New("receiver", testID, zap.NewNop(), &cfg)
	require.NoError(t, err)
	assert.Greater(t, runtime.NumGoroutine(), 100)
	fault.ReleaseHangs()
}

// A hang in a process where nothing else goes on, such as a dry run, must not be
// taken for a deadlock by the Go runtime. (It looks for one only in builds without
// cgo, such as the Collector's.)
func TestHangIsNotADeadlock(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), actionVariable+"=hang_create")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case waitErr := <-ended:
		t.Fatal("ended by itself: ", waitErr)
	case <-time.After(100 * time.Millisecond): // a hang can only be seen by waiting
	}
	require.NoError(t, cmd.Process.Kill())
	assert.Error(t, <-ended, "killed")
}

func TestActionsThatEndTheProcess(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("exit codes of crashes differ")
	}
	tests := []struct {
		action fault.Action
		code   int
		says   string
	}{
		{fault.Panic, 2, `panic: receiver "fault/a" fails on demand (panic)`},
		{fault.Exit, fault.ExitCode, ""},
		{fault.Segv, 2, "SIGSEGV"},
	}
	for _, tt := range tests {
		t.Run(string(tt.action), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), actionVariable+"="+string(tt.action))
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, tt.code, exit.ExitCode())
			assert.Contains(t, string(out), tt.says)
		})
	}
}
