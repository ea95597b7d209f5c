package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Row is one way to fail.
type Row struct {
	// Name is for the table and tells rows apart.
	Name string
	// needs is the type of a component that only some distributions have.
	needs string
	// candidate makes what is offered; nil when nothing is.
	candidate func(w *World) candidate
	// harm makes the Collector with this process ID fail once it runs what it is
	// to run; nil when the candidate fails by itself.
	harm func(w *World, pid int) error
	// after is how long the candidate serves before it is harmed.
	after time.Duration
	// direct means: at once after the row above, on what that one has left.
	direct bool
}

// candidate is a remote configuration: the good one, and something more. The
// lists are of IDs and begin with a comma.
type candidate struct {
	sections                                     string // top-level ones, but for processors
	processor                                    string // a block
	raw                                          string // instead of everything else
	receivers, processors, exporters, extensions string
}

// markKey is the attribute that tells which configuration a span has passed.
const markKey = "bench.config"

const remoteConfig = `
%s
processors:
  attributes/bench: {actions: [{key: %s, value: %q, action: upsert}]}
  %s
service:
  extensions: [%s]
  pipelines:
    traces: {receivers: [otlp%s], processors: [attributes/bench%s, batch], exporters: [otlp_grpc%s]}
`

// yaml renders the candidate.
func (c candidate) yaml(mark string) string {
	if c.raw != "" {
		return c.raw
	}
	return fmt.Sprintf(remoteConfig, c.sections, markKey, mark, c.processor,
		strings.TrimPrefix(c.extensions, ", "), c.receivers, c.processors, c.exporters)
}

// Names of rows that are measured by more than one benchmark.
const (
	InvalidYAML      = "invalid YAML"
	UnknownComponent = "an unknown component (fails the dry run)"
	BindConflict     = "two receivers on one port"
	BadAfterASecond  = "PermanentError after 1 s of the trial"
	SegvInTrial      = "SIGSEGV in trial"
)

// rows are all rows, in the order in which they are measured.
func rows() []Row {
	return []Row{
		{Name: InvalidYAML, candidate: func(*World) candidate { return candidate{raw: "receivers: {otlp: [\n"} }},
		{Name: UnknownComponent, candidate: func(*World) candidate {
			return candidate{processor: "no_such_processor: {}", processors: ", no_such_processor"}
		}},
		{Name: BindConflict, candidate: func(w *World) candidate {
			return candidate{
				sections:  fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}", w.otlp),
				receivers: ", otlp/second",
			}
		}},
		{Name: "a receiver's certificate is missing (Start fails)", candidate: func(w *World) candidate {
			return candidate{
				sections: fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q, tls: {cert_file: %q, key_file: %[2]q}}}}}",
					w.spare, w.dir+"/missing.pem"),
				receivers: ", otlp/second",
			}
		}},
		{Name: "an extension cannot be created", needs: "file_storage", candidate: func(*World) candidate {
			// It does not exist, which is fine when it is to be created; but there it
			// cannot be.
			return candidate{
				sections:   "extensions: {file_storage: {directory: /proc/otelcol-bench, create_directory: true}}",
				extensions: ", file_storage",
			}
		}},
		{Name: "FatalError before Ready (k8s_attributes outside Kubernetes)", needs: "k8s_attributes", candidate: func(*World) candidate {
			return candidate{processor: "k8s_attributes: {}", processors: ", k8s_attributes"}
		}},
		{Name: "FatalError before Ready", needs: "fault", candidate: func(*World) candidate {
			return candidate{sections: "exporters: {fault: {in_start: fatal_error}}", exporters: ", fault"}
		}},
		{Name: "a component panics in Start", needs: "fault", candidate: func(*World) candidate {
			return candidate{sections: "exporters: {fault: {panic_start: true}}", exporters: ", fault"}
		}},
		{Name: "a component hangs in Start", needs: "fault", candidate: func(*World) candidate {
			return candidate{sections: "exporters: {fault: {hang_start: true}}", exporters: ", fault"}
		}},
		{Name: "PermanentError in trial", needs: "fault", candidate: controlled, harm: command("permanent_error")},
		{Name: BadAfterASecond, needs: "fault", candidate: controlled, harm: command("permanent_error"), after: time.Second},
		{Name: "FatalError in trial", needs: "fault", candidate: controlled, harm: command("fatal_error")},
		{Name: SegvInTrial, candidate: plain, harm: segv},
		{Name: "SIGSEGV in the trial of the next offer", candidate: plain, harm: segv, direct: true},
		{Name: "SIGSEGV right after that rollback", harm: segv, direct: true},
		{Name: "SIGSEGV outside of a trial", harm: segv},
	}
}

// plain is a candidate that works.
func plain(*World) candidate { return candidate{} }

// controlled is a candidate that works until command.
func controlled(w *World) candidate {
	return candidate{sections: fmt.Sprintf("exporters: {fault: {control: %q}}", w.control()), exporters: ", fault"}
}

// command makes the component of controlled do something.
func command(word string) func(w *World, pid int) error {
	return func(w *World, _ int) error {
		if err := os.WriteFile(w.control(), []byte(word+" "+w.mark("candidate")), 0o600); err != nil {
			return fmt.Errorf("commanding a component: %w", err)
		}
		return nil
	}
}

// segv sends the signal of an invalid memory access: to the Go runtime it is as
// fatal as one that C code or a fault outside of Go's own memory causes.
func segv(_ *World, pid int) error {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.SIGSEGV)
	}
	if err != nil {
		return fmt.Errorf("sending SIGSEGV to process %d: %w", pid, err)
	}
	return nil
}

// Possible returns the rows that are wanted and that both Collectors can show.
func Possible(ctx context.Context, s Settings) ([]Row, error) {
	var names []string
	for _, binary := range []string{s.Collector, s.Supervised} {
		output, err := ask(ctx, binary, "components")
		if err != nil {
			return nil, err
		}
		names = append(names, output)
	}
	var chosen []Row
	for _, r := range rows() {
		missing := func(output string) bool { return r.needs != "" && !strings.Contains(output, "name: "+r.needs+"\n") }
		if slices.ContainsFunc(names, missing) || !s.wants(r) {
			continue
		}
		chosen = append(chosen, r)
	}
	if len(chosen) == 0 {
		return nil, errors.New("no row is left to be measured")
	}
	return chosen, nil
}
