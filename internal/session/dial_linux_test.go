package session_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// TestKernelNoticesDeadPeers within a minute, whether there is something to send
// or not.
//
// Conformance: 64
func TestKernelNoticesDeadPeers(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	conn, err := session.Dialer().DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	for option, want := range map[int]int{
		unix.TCP_USER_TIMEOUT: 60_000, // milliseconds
		unix.TCP_KEEPIDLE:     30, unix.TCP_KEEPINTVL: 10, unix.TCP_KEEPCNT: 3,
	} {
		require.NoError(t, raw.Control(func(fd uintptr) {
			got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option)
			assert.NoError(t, err)
			assert.Equal(t, want, got, option)
		}))
	}
}
