// Command opampserver is a server for development: it shows the agents that
// connect to it and gives them configurations, from a page in the browser or with
// curl. It keeps everything in memory and authenticates nobody.
//
//	opampserver --listen 127.0.0.1:4320 --ui 127.0.0.1:4321 [--config-for-all file.yaml]
//
// The page and the JSON API are served on loopback only:
//
//	GET  /api/agents                    every agent
//	GET  /api/agents/{uid}              one agent, with its effective config
//	PUT  /api/agents/{uid}/config       body: YAML for this agent, ?wait=30s
//	PUT  /api/config                    body: YAML for every agent, ?wait=30s
//	PUT  /api/agents/{uid}/connections  body: connection settings for this agent, ?wait=30s
//	PUT  /api/connections               body: connection settings for every agent, ?wait=30s
//	GET  /api/timeline?uid=&limit=      the last messages
//
// With ?wait the answer comes when the agent has reported APPLIED or FAILED.
//
// Connection settings are YAML or JSON; what is left out is not offered and stays as
// it is, and certificates and keys are PEM:
//
//	opamp:
//	  endpoint: wss://127.0.0.1:4320/v1/opamp
//	  headers: {Authorization: Bearer token}
//	  certificate: {cert: ..., key: ..., ca: ...}
//	  tls: {ca: ..., system_cas: true, min_version: "1.3"}
//	  proxy: {url: http://127.0.0.1:3128}
//	  heartbeat: 30s
//	own_metrics: {endpoint: http://127.0.0.1:4318/v1/metrics} # {} withdraws; own_traces and own_logs too
//	other_connections:
//	  backend: {endpoint: https://127.0.0.1:4318, other: {key: value}}
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	defaultListen = "127.0.0.1:4320" // the port that the OpAMP specification proposes
	defaultUI     = "127.0.0.1:4321"

	// keepBytes of messages are plenty to look back at.
	keepBytes = 64 << 20
	// headerTimeout only guards against a peer that connects and says nothing.
	headerTimeout = 10 * time.Second
	// stopTimeout bounds the wait for requests at the end; all of them are told.
	stopTimeout = 2 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "opampserver:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	listen, ui, configForAll string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("opampserver", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.listen, "listen", defaultListen, "`address` for agents (path /v1/opamp, WebSocket and HTTP, no TLS)")
	flags.StringVar(&o.ui, "ui", defaultUI, "loopback `address` of the page and the JSON API")
	flags.StringVar(&o.configForAll, "config-for-all", "", "YAML `file` that every agent is offered")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, checkLoopback(o.ui)
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	agents, err := opampserver.Start(opampserver.Settings{Addr: o.listen, KeepBytes: keepBytes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopWithin(ctx, agents.Stop)) }()
	if o.configForAll != "" {
		body, readErr := readConfig(o.configForAll)
		if readErr != nil {
			return readErr
		}
		agents.OfferToAll(offerOf(body))
	}

	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.ui)
	if err != nil {
		return fmt.Errorf("listening for the page: %w", err)
	}
	web := &http.Server{
		Handler:           guard(newMux(agents)),
		ReadHeaderTimeout: headerTimeout,
		// Requests that wait for an agent end with the program.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- web.Serve(ln) }()
	greet(stdout, agents, "http://"+ln.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serving the page: %w", err)
	case <-ctx.Done():
	}
	if stopWithin(ctx, web.Shutdown) != nil {
		_ = web.Close() // browsers keep connections open that they never used
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the page: %w", err)
	}
	return nil
}

// greet says where to look and what to paste.
func greet(w io.Writer, agents *opampserver.Server, page string) {
	_, _ = fmt.Fprintf(w, `Agents:  %s  or  %s
Page:    %s/
Push a configuration to every agent and wait for the result:
  curl -sS -X PUT --data-binary @config.yaml '%s/api/config?wait=30s'
`, agents.WSURL(), agents.HTTPURL(), page, page) // nobody may be reading
}

// stopWithin calls stop with the time that it has; ctx has ended by now.
func stopWithin(ctx context.Context, stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return stop(ctx)
}

// readConfig reads a configuration of bounded size.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the path is the option
	if err != nil {
		return nil, fmt.Errorf("reading the configuration for all: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	body, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration for all: %w", err)
	}
	if len(body) > maxConfigBytes {
		return nil, fmt.Errorf("reading the configuration for all: %s is larger than %d bytes", path, maxConfigBytes)
	}
	return body, nil
}
