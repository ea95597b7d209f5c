package otelcol_test

import (
	"io/fs"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

func TestListenerPID(t *testing.T) {
	t.Parallel()
	addr, err := otelcol.FreeAddr()
	require.NoError(t, err)
	_, err = otelcol.ListenerPID(addr)
	require.ErrorIs(t, err, fs.ErrNotExist)

	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	pid, err := otelcol.ListenerPID(addr)
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), pid)

	require.NoError(t, ln.Close())
	_, err = otelcol.ListenerPID(addr)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = otelcol.ListenerPID("nonsense")
	assert.Error(t, err)
}
