package otelcol_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProcReaders(t *testing.T) {
	t.Parallel()
	p := start(t, "polite", nil)
	require.NoError(t, p.WaitLog(patiently(t), "listening"))
	rss, err := p.RSS()
	require.NoError(t, err)
	assert.Greater(t, rss, int64(1<<20))
	fds, err := p.FDs()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, fds, 3)
	threads, err := p.Threads()
	require.NoError(t, err)
	assert.Positive(t, threads)
	name, err := p.Name()
	require.NoError(t, err)
	assert.Equal(t, filepath.Base(os.Args[0])[:len(name)], name)
	children, err := p.Children()
	require.NoError(t, err)
	assert.Empty(t, children)

	require.NoError(t, p.Stop(patiently(t)))
	_, err = p.RSS()
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = p.FDs()
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLeftoversAreFound(t *testing.T) {
	t.Parallel()
	p := start(t, "parent", nil)
	require.NoError(t, p.WaitLog(patiently(t), "listening"))
	children, err := p.Children()
	require.NoError(t, err)
	require.Len(t, children, 1)
	left, err := p.Leftovers()
	require.NoError(t, err)
	assert.Equal(t, children, left, "a group of its own does not hide it")

	// The child outlives its parent and keeps the output open.
	require.NoError(t, p.Stop(patiently(t)))
	left, err = p.Leftovers()
	require.NoError(t, err)
	assert.Equal(t, children, left)
	require.NoError(t, p.KillAll())
	require.Eventually(t, func() bool {
		left, err := p.Leftovers()
		return err == nil && len(left) == 0
	}, patience, time.Millisecond, "nothing is left")
}
