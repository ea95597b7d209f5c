package preflight_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestChildThatLeaksIsLimited(t *testing.T) {
	got := run(t, t.Context(), "leak", time.Minute)
	assert.False(t, got.Transient)
	assert.Contains(t, got.Reason, "memory limit 512 MiB")
}
