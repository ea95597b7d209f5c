package console

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The lines stand among the Collector's own and must look like them.
func TestFormat(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := to(zapcore.AddSync(&out))
	log.Debug("not shown")
	log.Warn("Replacing the process", zap.String("reason", "because"))
	assert.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\S*\twarn\tReplacing the process\t\{"reason": "because"\}\n$`, out.String())
}
