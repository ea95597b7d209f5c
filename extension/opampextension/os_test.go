package opampextension

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOSRelease(t *testing.T) {
	t.Parallel()
	debian := filepath.Join(t.TempDir(), "debian_version")
	require.NoError(t, os.WriteFile(debian, []byte("12.5\n"), 0o600))
	for text, want := range map[string]string{
		"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n": "debian 12.5",
		"ID=\"rhel\"\nVERSION_ID=\"9.4\"\n":                                              "rhel 9.4",
		"ID=arch\nBUILD_ID=rolling\n":                                                    "arch",
		"ID=alpine\n# a comment\nVERSION_ID=3.20.1":                                      "alpine 3.20.1",
		"": "",
	} {
		assert.Equal(t, want, osRelease(text, debian))
	}
	assert.Equal(t, "debian 12", osRelease("ID=debian\nVERSION_ID=12", debian+".missing"))
}
