package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// row is one way to fail.
type row struct {
	name string
	// needs is the type of a component that only some distributions have.
	needs string
	// candidate makes what is offered; nil when nothing is.
	candidate func(w *world) candidate
	// harm makes the Collector with this process ID fail once it runs what it is
	// to run; nil when the candidate fails by itself.
	harm func(w *world, pid int) error
	// direct means: at once after the row above, on what that one has left.
	direct bool
}

// candidate is a remote configuration: the good one, and something more. The
// lists are of IDs and begin with a comma.
type candidate struct {
	sections                                     string // top-level ones, but for processors
	processor                                    string // a block
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
	return fmt.Sprintf(remoteConfig, c.sections, markKey, mark, c.processor,
		strings.TrimPrefix(c.extensions, ", "), c.receivers, c.processors, c.exporters)
}

// rows are all rows, in the order in which they are measured.
func rows() []row {
	return []row{
		{name: "an unknown component (fails the dry run)", candidate: func(*world) candidate {
			return candidate{processor: "no_such_processor: {}", processors: ", no_such_processor"}
		}},
		{name: "two receivers on one port", candidate: func(w *world) candidate {
			return candidate{
				sections:  fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}", w.otlp),
				receivers: ", otlp/second",
			}
		}},
		{name: "a receiver's certificate is missing (Start fails)", candidate: func(w *world) candidate {
			return candidate{
				sections: fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q, tls: {cert_file: %q, key_file: %[2]q}}}}}",
					w.spare, w.dir+"/missing.pem"),
				receivers: ", otlp/second",
			}
		}},
		{name: "an extension cannot be created", needs: "file_storage", candidate: func(*world) candidate {
			// It does not exist, which is fine when it is to be created; but there it
			// cannot be.
			return candidate{
				sections:   "extensions: {file_storage: {directory: /proc/otelcol-bench, create_directory: true}}",
				extensions: ", file_storage",
			}
		}},
		{name: "FatalError before Ready (k8s_attributes outside Kubernetes)", needs: "k8s_attributes", candidate: func(*world) candidate {
			return candidate{processor: "k8s_attributes: {}", processors: ", k8s_attributes"}
		}},
		{name: "FatalError before Ready", needs: "fault", candidate: func(*world) candidate {
			return candidate{sections: "exporters: {fault: {in_start: fatal_error}}", exporters: ", fault"}
		}},
		{name: "a component panics in Start", needs: "fault", candidate: func(*world) candidate {
			return candidate{sections: "exporters: {fault: {panic_start: true}}", exporters: ", fault"}
		}},
		{name: "a component hangs in Start", needs: "fault", candidate: func(*world) candidate {
			return candidate{sections: "exporters: {fault: {hang_start: true}}", exporters: ", fault"}
		}},
		{name: "PermanentError in trial", needs: "fault", candidate: controlled, harm: command("permanent_error")},
		{name: "FatalError in trial", needs: "fault", candidate: controlled, harm: command("fatal_error")},
		{name: "SIGSEGV in trial", candidate: plain, harm: segv},
		{name: "SIGSEGV in the trial of the next offer", candidate: plain, harm: segv, direct: true},
		{name: "SIGSEGV right after that rollback", harm: segv, direct: true},
		{name: "SIGSEGV outside of a trial", harm: segv},
	}
}

// plain is a candidate that works.
func plain(*world) candidate { return candidate{} }

// controlled is a candidate that works until command.
func controlled(w *world) candidate {
	return candidate{sections: fmt.Sprintf("exporters: {fault: {control: %q}}", w.control()), exporters: ", fault"}
}

// command makes the component of controlled do something.
func command(word string) func(w *world, pid int) error {
	return func(w *world, _ int) error {
		if err := os.WriteFile(w.control(), []byte(word+" "+w.mark("candidate")), 0o600); err != nil {
			return fmt.Errorf("commanding a component: %w", err)
		}
		return nil
	}
}

// segv sends the signal of an invalid memory access: to the Go runtime it is as
// fatal as one that C code or a fault outside of Go's own memory causes.
func segv(_ *world, pid int) error {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.SIGSEGV)
	}
	if err != nil {
		return fmt.Errorf("sending SIGSEGV to process %d: %w", pid, err)
	}
	return nil
}

// possible returns the rows that are wanted and that both Collectors can show.
func possible(ctx context.Context, s settings) ([]row, error) {
	var names []string
	for _, binary := range []string{s.collector, s.supervised} {
		output, err := ask(ctx, binary, "components")
		if err != nil {
			return nil, err
		}
		names = append(names, output)
	}
	var chosen []row
	for _, r := range rows() {
		missing := func(output string) bool { return r.needs != "" && !strings.Contains(output, "name: "+r.needs+"\n") }
		if slices.ContainsFunc(names, missing) || !strings.Contains(strings.ToLower(r.name), strings.ToLower(s.rows)) {
			continue
		}
		chosen = append(chosen, r)
	}
	if len(chosen) == 0 {
		return nil, errors.New("no row is left to be measured")
	}
	return chosen, nil
}
