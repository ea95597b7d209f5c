package opampextension

import (
	"os"
	"strings"
	"sync"

	"github.com/shirou/gopsutil/v4/host"
)

// osDescription is for example "debian 12.5"; it does not change while the
// process lives.
var osDescription = sync.OnceValue(func() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if data, err := os.ReadFile(path); err == nil { //nolint:gosec // one of two fixed paths
			return osRelease(string(data), "/etc/debian_version")
		}
	}
	// Where there is no such file. It would do on others, too, but there it
	// starts a shell script with ten children of its own, in every start.
	platform, _, version, err := host.PlatformInformation()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(platform + " " + version)
})

// osRelease reads os-release(5). Debian's has no minor version, which is in a
// file of its own.
func osRelease(text, debianVersion string) string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[name] = strings.Trim(value, `"'`)
		}
	}
	id, version := fields["ID"], fields["VERSION_ID"]
	if id == "debian" {
		if data, err := os.ReadFile(debianVersion); err == nil { //nolint:gosec // a fixed path, but in tests
			version = strings.TrimSpace(string(data))
		}
	}
	return strings.TrimSpace(id + " " + version)
}
