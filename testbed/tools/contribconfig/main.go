// Command contribconfig tells what contrib's opampextension makes of the blocks
// on its standard input: for each the configuration that it loads, or the error.
//
// It is a module of its own: contrib's extension does not compile with the
// version of opamp-go that this repository uses.
//
//	go run . < blocks.yaml > blocks.golden.json
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampextension"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/featuregate"
	"go.yaml.in/yaml/v3"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("contribconfig: ", err) //nolint:forbidigo // this is main
	}
}

// result is what becomes of one block.
type result struct {
	Name string `json:"name"`
	// Config is what was loaded, as the Collector would print it.
	Config map[string]any `json:"config,omitempty"`
	// Headers are those of the connection: Config has them redacted.
	Headers map[string]string `json:"headers,omitzero"`
	// Error is the text that the Collector would print.
	Error string `json:"error,omitempty"`
}

func run() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("reading the blocks: %w", err)
	}
	var blocks []struct {
		Name           string         `yaml:"name"`
		RemoteRestarts bool           `yaml:"remote_restarts"`
		Block          map[string]any `yaml:"block"`
	}
	if err := yaml.Unmarshal(text, &blocks); err != nil {
		return fmt.Errorf("reading the blocks: %w", err)
	}
	var results []result
	for _, b := range blocks {
		if err := featuregate.GlobalRegistry().Set("extension.opampextension.RemoteRestarts", b.RemoteRestarts); err != nil {
			return err
		}
		r, err := load(b.Block)
		if err != nil {
			r.Error = err.Error()
		}
		r.Name = b.Name
		results = append(results, r)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(results)
}

// load does what the Collector does with a block.
func load(block map[string]any) (result, error) {
	cfg := opampextension.NewFactory().CreateDefaultConfig().(*opampextension.Config)
	if err := confmap.NewFromStringMap(block).Unmarshal(cfg); err != nil {
		return result{}, err
	}
	all := struct {
		Extensions map[component.ID]component.Config `mapstructure:"extensions"`
	}{map[component.ID]component.Config{component.MustNewID("opamp"): cfg}}
	if err := confmap.Validate(&all); err != nil {
		return result{}, err
	}
	conf := confmap.New()
	if err := conf.Marshal(cfg); err != nil {
		return result{}, err
	}
	r := result{Config: conf.ToStringMap(), Headers: map[string]string{}}
	for key, value := range cfg.Server.GetHeaders() {
		r.Headers[key] = string(value)
	}
	return r, nil
}
