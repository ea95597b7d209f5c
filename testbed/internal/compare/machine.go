package compare

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine describes the processors and the system.
func Machine() string {
	text := fmt.Sprintf("%d CPUs", runtime.NumCPU())
	if model := processor(); model != "" {
		text += " (" + model + ")"
	}
	return text + ", " + runtime.GOOS + "/" + runtime.GOARCH
}

// LoadAverage is how busy the machine is: processes that want to run, over the
// last minute. Empty where the system does not tell.
func LoadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(content), " ")
	return first
}

// processor is the name of the CPU, empty where the system does not tell.
func processor() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
