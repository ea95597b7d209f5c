package process_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/otelcol"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// spy is a provider that notes what it is asked for.
type spy struct{ seen *[]process.Purpose }

func (s spy) Retrieve(context.Context, string, confmap.WatcherFunc) (*confmap.Retrieved, error) {
	*s.seen = append(*s.seen, process.CallerPurpose())
	return confmap.NewRetrieved(map[string]any{})
}
func (spy) Scheme() string                 { return "spy" }
func (spy) Shutdown(context.Context) error { return nil }

// TestPurposeIsToldFromTheLibrarysStack pins the names of the Collector's
// functions: if the library renames them, this fails.
func TestPurposeIsToldFromTheLibrarysStack(t *testing.T) {
	t.Parallel()
	var seen []process.Purpose
	set := otelcol.CollectorSettings{
		BuildInfo: component.NewDefaultBuildInfo(),
		Factories: func() (otelcol.Factories, error) { return otelcol.Factories{}, nil },
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{"spy:"}, DefaultScheme: "spy",
			ProviderFactories: []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider {
				return spy{&seen}
			})},
		}},
	}
	for _, command := range [][]string{{}, {"validate"}, {"print-config"}} {
		cmd := otelcol.NewCommand(set)
		cmd.SetArgs(command)
		cmd.SilenceErrors = true
		require.Error(t, cmd.Execute(), "an empty configuration is not valid")
	}
	assert.Equal(t, []process.Purpose{process.PurposeRun, process.PurposeDryRun, process.PurposeOther}, seen)
}

func TestPurposeIsToldFromTheArgumentsOfAnUnknownLibrary(t *testing.T) {
	t.Parallel()
	for want, lines := range map[process.Purpose][]string{
		process.PurposeRun:    {"", "--config=a --config opamp:", "--config a --feature-gates x"},
		process.PurposeDryRun: {"validate --config a", "--config a validate"},
		process.PurposeOther:  {"print-config", "--config=a components"},
	} {
		for _, line := range lines {
			assert.Equal(t, want, process.PurposeOf(strings.Fields(line)), line)
		}
	}
}

func TestExecutableIsThisFile(t *testing.T) {
	t.Parallel()
	path, err := process.Executable()
	require.NoError(t, err)
	want, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Skip("no /proc on this system")
	}
	got, err := os.Stat(path)
	require.NoError(t, err)
	assert.True(t, os.SameFile(want, got))
}
