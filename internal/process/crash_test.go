package process_test

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

func TestPanickingSaysWhere(t *testing.T) {
	t.Parallel()
	_, panicking := process.Panicking()
	assert.False(t, panicking)
	var where string
	func() {
		defer func() { _ = recover() }()
		defer func() { where, panicking = process.Panicking() }()
		fail()
	}()
	assert.True(t, panicking)
	assert.True(t, strings.HasPrefix(where, "github.com/otelcol-opamp/otelcol-opamp/internal/process_test.fail < "), where)
}

//go:noinline
func fail() { panic("boom") }

func TestCrash(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"none":        {"", ""},
		"panic":       {"panic: boom\n\ngoroutine 7 [running]:\nexample.com/x/receiver.(*r).loop(0xc000)\n\t/x/r.go:3 +0x1\nexample.com/x/receiver.start(...)\n\t/x/r.go:9 +0x2\ncreated by example.com/x/receiver.New in goroutine 1\n\t/x/r.go:1\n\ngoroutine 1 [select]:\nmain.main()\n", "panic: boom in example.com/x/receiver.(*r).loop < example.com/x/receiver.start"},
		"fault":       {"SIGSEGV: segmentation violation\nPC=0x1 m=0\n\ngoroutine 7 [running]:\nruntime.throw({0x1, 0x2})\n\t/go/p.go:1\nexample.com/x.f()\n\t/x/r.go:3\n", "SIGSEGV: segmentation violation in example.com/x.f"},
		"signal":      {"[signal SIGSEGV: segmentation violation code=0x2 addr=0x7f pc=0x1]\n\ngoroutine 36 gp=0x2 m=5 mp=0x2 [running]:\nruntime.throw({0x1?, 0x0?})\n\truntime/panic.go:1229 +0x48 fp=0x2\nexample.com/x.f(0x1)\n\t/x/r.go:3\n", "[signal SIGSEGV: segmentation violation code=0x2 addr=0x7f pc=0x1] in example.com/x.f"},
		"real memory": {"\nruntime stack:\nruntime.throw({0x1b2b2ea?, 0x280e?})\n\truntime/panic.go:1229 +0x48 fp=0x2\nruntime.sysMapOS(0x203a52800000, 0x400000)\n\truntime/mem_linux.go:175\nruntime.systemstack(0x0)\n\n\ngoroutine 14 gp=0x2 m=4 mp=0x2 [running]:\nruntime.systemstack_switch()\n\truntime/asm_amd64.s:516\nexample.com/x.leak(0x1)\n\t/x/r.go:3\n\ngoroutine 1 [select]:\n", "fatal error: out of memory in example.com/x.leak"},
		"real fatal":  {"\ngoroutine 14 [running]:\nruntime.fatal({0x1b2b2ea?, 0x280e?})\n\truntime/panic.go:1229 +0x48\nruntime.mapassign_fast64(0x1)\n\truntime/map.go:175\nexample.com/x.count(0x1)\n\t/x/r.go:3\n\ngoroutine 1 [select]:\n", "fatal error in runtime.mapassign_fast64 in example.com/x.count"},
		"memory":      {"fatal error: runtime: out of memory\n\ngoroutine 1 [running]:\nruntime.mallocgc()\n\t/go/m.go:1\n", "fatal error: runtime: out of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "crash")
			require.NoError(t, os.WriteFile(path, []byte(tt.text), 0o600))
			got, err := process.Crash(path)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	got, err := process.Crash(filepath.Join(t.TempDir(), "none"))
	require.NoError(t, err)
	assert.Empty(t, got)
}

// Somebody put a link where the file belongs: what it names is neither told nor
// overwritten.
func TestCrashFileThatIsALinkIsNotFollowed(t *testing.T) {
	const text = "panic: precious\n\ngoroutine 1 [running]:\n"
	for name, link := range map[string]func(target, path string) error{"symbolic": os.Symlink, "hard": os.Link} {
		dir := t.TempDir()
		for _, target := range []string{filepath.Join(t.TempDir(), "outside"), filepath.Join(dir, "inside")} {
			path := filepath.Join(dir, "crash")
			require.NoError(t, os.WriteFile(target, []byte(text), 0o600))
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, link(target, path), name)
			if name == "symbolic" {
				got, err := process.Crash(path)
				require.ErrorContains(t, err, "is not a regular file")
				require.Empty(t, got)
			}
			require.NoError(t, process.RecordCrash(path))
			got, err := os.ReadFile(target)
			require.NoError(t, err)
			assert.Equal(t, text, string(got), name)
			info, err := os.Lstat(path)
			require.NoError(t, err)
			assert.True(t, info.Mode().IsRegular())
			assert.Zero(t, info.Size())
		}
	}
	require.NoError(t, debug.SetCrashOutput(nil, debug.CrashOptions{}))
}

func TestCrashFileThatIsAFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "crash")
	require.NoError(t, os.MkdirAll(filepath.Join(path, "full"), 0o700))
	_, err := process.Crash(path)
	require.ErrorContains(t, err, "is not a regular file")
	require.Error(t, process.RecordCrash(path))
}
