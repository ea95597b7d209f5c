package compare

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

func TestCandidatesAreYAML(t *testing.T) {
	t.Parallel()
	w := &World{dir: "/somewhere", otlp: "127.0.0.1:1", spare: "127.0.0.1:2"}
	names := map[string]bool{}
	for _, r := range rows() {
		assert.False(t, names[r.Name], "rows are told apart by their names: %s", r.Name)
		names[r.Name] = true
		require.True(t, r.candidate != nil || r.harm != nil, "%s fails somehow", r.Name)
		if r.candidate == nil {
			continue
		}
		retrieved, err := confmap.NewRetrievedFromYAML([]byte(r.candidate(w).yaml("mark")))
		require.NoError(t, err, r.Name)
		if r.Name == InvalidYAML {
			_, err := retrieved.AsConf()
			require.Error(t, err, r.Name)
			continue
		}
		conf, err := retrieved.AsConf() // the Collector's own idea of YAML
		require.NoError(t, err, r.Name)
		assert.True(t, conf.IsSet("service::pipelines::traces"), r.Name)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	var sizes []int
	for _, b := range blocks([]Row{{}, {}, {direct: true}, {direct: true}, {}}) {
		sizes = append(sizes, len(b))
	}
	assert.Equal(t, []int{1, 3, 1}, sizes)
	assert.Len(t, blocks([]Row{{direct: true}}), 1, "without the row above it")
	assert.Empty(t, blocks(nil))
}
