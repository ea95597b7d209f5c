// Package console has the logger for the time when the Collector has none:
// before its service has started, and after it was shut down.
package console

import (
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logger returns a logger that writes to stderr in the Collector's own format
// for the console, at level info. It need not be closed.
func Logger() *zap.Logger { return to(zapcore.Lock(os.Stderr)) }

func to(out zapcore.WriteSyncer) *zap.Logger {
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoding), out, zapcore.InfoLevel))
}
