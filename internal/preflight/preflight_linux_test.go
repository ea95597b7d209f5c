package preflight_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestChildThatLeaksIsLimited(t *testing.T) {
	got := run(t, t.Context(), "leak", time.Minute)
	assert.False(t, got.Transient)
	// The race detector has words of its own for it.
	assert.Regexp(t, "out of memory.*512 MiB|failed to allocate", got.Reason)
}
