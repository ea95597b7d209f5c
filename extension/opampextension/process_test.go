package opampextension

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func collect(t *testing.T, reader sdkmetric.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	byName := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			byName[m.Name] = m
		}
	}
	return byName
}

// TestProcessMetrics also covers a HOST_PROC that is another machine's: what is
// observed is this process.
func TestProcessMetrics(t *testing.T) {
	t.Setenv("HOST_PROC", filepath.Join(t.TempDir(), "proc"))
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	stop, err := observeProcess(provider.Meter("test"))
	require.NoError(t, err)
	got := collect(t, reader)

	units := map[string]string{}
	for name, m := range got {
		units[name] = m.Unit
		assert.NotEmpty(t, m.Description, name)
	}
	want := map[string]string{
		"process.cpu.time": "s", "process.uptime": "s", "process.memory.usage": "By", "process.memory.virtual": "By",
		"process.thread.count": "{thread}", "process.unix.file_descriptor.count": "{file_descriptor}",
	}
	if runtime.GOOS == "windows" {
		delete(want, "process.unix.file_descriptor.count")
		want["process.windows.handle.count"] = "{handle}"
	}
	assert.Equal(t, want, units)

	cpu := got["process.cpu.time"].Data.(metricdata.Sum[float64])
	assert.True(t, cpu.IsMonotonic)
	assert.Equal(t, metricdata.CumulativeTemporality, cpu.Temporality)
	modes := []string{}
	for _, point := range cpu.DataPoints {
		mode, ok := point.Attributes.Value(attribute.Key("cpu.mode"))
		require.True(t, ok)
		modes = append(modes, mode.AsString())
		assert.GreaterOrEqual(t, point.Value, 0.0)
	}
	assert.ElementsMatch(t, []string{"user", "system"}, modes)
	for name, m := range got {
		sum, ok := m.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		assert.False(t, sum.IsMonotonic, name)
		require.Len(t, sum.DataPoints, 1, name)
		assert.Positive(t, sum.DataPoints[0].Value, name)
	}
	age := got["process.uptime"].Data.(metricdata.Gauge[float64])
	require.Len(t, age.DataPoints, 1)
	assert.Positive(t, age.DataPoints[0].Value)
	assert.Less(t, age.DataPoints[0].Value, 3600.0, "this test runs no hour")

	require.NoError(t, stop())
	assert.Empty(t, collect(t, reader), "nothing is observed after the end")
}

func TestProcessMetricsCountFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("handles there")
	}
	reader := sdkmetric.NewManualReader()
	stop, err := observeProcess(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"))
	require.NoError(t, err)
	defer func() { require.NoError(t, stop()) }()
	files := func() int64 {
		return collect(t, reader)["process.unix.file_descriptor.count"].Data.(metricdata.Sum[int64]).DataPoints[0].Value
	}
	const more = 100 // many more than other tests may open or close meanwhile
	before := files()
	for range more {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
	}
	assert.InDelta(t, before+more, files(), more/2)
}

// TestProcessMetricsOfSeveralReaders: each has a goroutine of its own.
func TestProcessMetricsOfSeveralReaders(t *testing.T) {
	t.Parallel()
	readers := []*sdkmetric.ManualReader{sdkmetric.NewManualReader(), sdkmetric.NewManualReader()}
	stop, err := observeProcess(sdkmetric.NewMeterProvider(sdkmetric.WithReader(readers[0]), sdkmetric.WithReader(readers[1])).Meter("test"))
	require.NoError(t, err)
	var group sync.WaitGroup
	for _, reader := range readers {
		group.Go(func() {
			for range 20 {
				var all metricdata.ResourceMetrics
				assert.NoError(t, reader.Collect(t.Context(), &all))
			}
		})
	}
	group.Wait()
	require.NoError(t, stop())
}
