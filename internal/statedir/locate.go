package statedir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Environment variables that name the state folder, in the order in which they
// are looked at (design, section 3.1).
const (
	EnvStateDir = "OTELCOL_OPAMP_STATE_DIR"
	// EnvSystemd is set by systemd for units with StateDirectory=; it may hold
	// several paths, of which the first is taken.
	EnvSystemd = "STATE_DIRECTORY"
)

// maxFolderName is the longest name of a folder that all file systems in use
// accept, in bytes.
const maxFolderName = 255

// Locate returns the folder of the agent called name. The parent is configured,
// if not empty, else what the environment names, else the platform's default.
// It looks at no disk. A relative path is an error that says where it came
// from.
func Locate(configured, name string) (string, error) {
	parent, source := configured, "the state_dir parameter of the opamp: URI"
	if parent == "" {
		parent, source = os.Getenv(EnvStateDir), EnvStateDir
	}
	if parent == "" {
		parent, _, _ = strings.Cut(os.Getenv(EnvSystemd), ":")
		source = EnvSystemd
	}
	if parent == "" {
		return filepath.Join(defaultParent(), folderName(name)), nil
	}
	if !filepath.IsAbs(parent) {
		return "", fmt.Errorf("state folder %q from %s is relative: give an absolute path", parent, source)
	}
	return filepath.Join(parent, folderName(name)), nil
}

// folderName maps an agent's name to one path element. The prefix keeps names
// such as ".." harmless, and escaping keeps different names apart.
func folderName(name string) string {
	if name == "" {
		return "opamp"
	}
	escaped := "opamp." + url.PathEscape(name)
	if runtime.GOOS == "windows" {
		// Characters that are legal in a URL path but not in a Windows name.
		escaped = strings.NewReplacer(":", "%3A", "*", "%2A").Replace(escaped)
	}
	if len(escaped) > maxFolderName {
		sum := sha256.Sum256([]byte(name))
		return "opamp.sha256-" + hex.EncodeToString(sum[:])
	}
	return escaped
}

func defaultParent() string {
	switch runtime.GOOS {
	case "windows":
		if dir := os.Getenv("ProgramData"); dir != "" {
			return filepath.Join(dir, "otelcol-opamp")
		}
		return `C:\ProgramData\otelcol-opamp`
	case "darwin":
		return "/Library/Application Support/otelcol-opamp"
	default:
		return "/var/lib/otelcol-opamp"
	}
}
