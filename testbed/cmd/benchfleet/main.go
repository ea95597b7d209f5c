// Command benchfleet measures many agents and one OpAMP server: what an idle agent
// costs, how long a push to all takes, and how agents come back after a restart of
// the server. It prints a Markdown table and writes JSON.
//
// The agents run in one process, without a Collector (a test binary of
// internal/agent plays the hosts), and the server in this one. Nothing is
// downloaded, and everything stays on the loopback interface.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	sizes := flag.String("n", "200,500,1000,2000", "numbers of agents, one measurement for each")
	flag.StringVar(&o.binary, "fleet", "../bin/fleet.test", "the test binary of internal/agent")
	flag.StringVar(&o.folder, "folder", "", "a `folder` on the disk that holds the agents' state; that of temporary files if empty")
	flag.DurationVar(&o.heartbeat, "heartbeat", 30*time.Second, "the interval between heartbeats")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long the idle agents are watched")
	flag.DurationVar(&o.trial, "trial", time.Second, "trial_period")
	flag.DurationVar(&o.down, "down", 30*time.Second, "how long the server is away the second time")
	flag.IntVar(&o.pushes, "pushes", 3, "how many configurations are pushed to all, one after the other")
	flag.StringVar(&o.profiles, "profiles", "", "a `folder` for profiles of the idle agents")
	flag.BoolVar(&o.tls, "tls", false, "TLS 1.3 between the agents and the server")
	output := flag.String("json", "", "a `file` for the figures")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, *sizes, *output)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchfleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, sizes, output string) error {
	var all []figures
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return fmt.Errorf("-n: %q is not a number of agents", size)
		}
		fmt.Fprintln(os.Stderr, "measuring", n, "agents")
		f, err := measure(ctx, o, n)
		if err != nil {
			return fmt.Errorf("measuring %d agents: %w", n, err)
		}
		all = append(all, f)
	}
	fmt.Print(table(all))
	if output == "" {
		return nil
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	return errors.Join(err, os.WriteFile(output, append(data, '\n'), 0o600))
}
