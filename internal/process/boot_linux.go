package process

import (
	"os"
	"strings"
)

// BootID identifies this boot of the machine; empty if it is not known.
func BootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
