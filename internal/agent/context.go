package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// maxLayer is how much of a local file is looked at, in bytes. Larger ones are
// told apart by their size and time.
const maxLayer = 4 << 20

// verdictContext identifies what the verdict of a dry run depends on besides
// the offer: the executable, its
// arguments and the local files among them.
func verdictContext(args []string) string {
	h := sha256.New()
	add := func(format string, args ...any) { _, _ = h.Write(fmt.Appendf(nil, format, args...)) }
	if path, err := process.Executable(); err == nil {
		if info, err := os.Stat(path); err == nil {
			add("executable %d %d\n", info.Size(), info.ModTime().UnixNano())
		}
	}
	for _, arg := range args {
		add("argument %q\n", arg)
	}
	for _, uri := range configURIs(args) { // other arguments may name files that change, such as logs
		value := strings.TrimPrefix(uri, "file:")
		if info, err := os.Stat(value); err == nil && info.Mode().IsRegular() {
			add("file %d %d\n", info.Size(), info.ModTime().UnixNano())
			hashFile(h, value)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hashFile adds what can be read; a file that cannot be read is no different
// from one that is empty, since the Collector cannot read it either.
func hashFile(h io.Writer, path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // nothing was written
	_, _ = io.CopyN(h, f, maxLayer)
}
