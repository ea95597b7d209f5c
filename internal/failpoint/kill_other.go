//go:build failpoints && !unix

package failpoint

import "os"

// kill ends the process without running anything more of it. 137 is what a shell
// reports for SIGKILL.
func kill() {
	os.Exit(137) //nolint:forbidigo // this is what it is for
}
