package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// fleetEnv and the types below are those of TestFleet in internal/agent.
const fleetEnv = "OTELCOL_OPAMP_FLEET"

type fleetSettings struct {
	Endpoint  string
	CA        []byte
	Agents    int
	Folder    string
	Heartbeat time.Duration
	Trial     time.Duration
}

// process holds the figures of a process; sizes are in bytes. Those of the network
// are the agents'.
type process struct {
	Goroutines, Files                            int
	HeapLive, HeapInUse, Stacks, Runtime, RSS    uint64
	Mallocs, Allocated, BytesSent, BytesReceived uint64
	CPU                                          time.Duration
}

// stopLimit bounds the end of a fleet: each agent says goodbye within seconds.
const stopLimit = time.Minute

// fleet is the process in which the agents run.
type fleet struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Scanner
	end     context.CancelFunc
}

// startFleet starts the process, which has no agents until it is told "start".
func startFleet(ctx context.Context, binary string, set fleetSettings) (*fleet, error) {
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encoding the fleet's settings: %w", err)
	}
	ctx, end := context.WithCancel(ctx)
	f := &fleet{end: end}
	f.command = exec.CommandContext(ctx, binary, "-test.run=^TestFleet$", "-test.timeout=0")
	f.command.Env = append(os.Environ(), fleetEnv+"="+string(text))
	f.command.Stderr = os.Stderr
	// What the test says when it fails comes after the answers.
	output, err := f.command.StdoutPipe()
	if err == nil {
		f.output = bufio.NewScanner(output)
		f.input, err = f.command.StdinPipe()
	}
	if err == nil {
		err = f.command.Start()
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("starting the fleet %q: %w", binary, err)
	}
	return f, nil
}

// do gives the fleet a command and returns its figures after that.
func (f *fleet) do(command string) (process, error) {
	if _, err := fmt.Fprintln(f.input, command); err != nil {
		return process{}, fmt.Errorf("telling the fleet %q: %w", command, err)
	}
	var said strings.Builder
	for f.output.Scan() {
		var p process
		if err := json.Unmarshal(f.output.Bytes(), &p); err == nil {
			return p, nil
		}
		said.WriteString(f.output.Text() + "\n")
	}
	return process{}, fmt.Errorf("waiting for the fleet to %q: it has ended\n%s", command, said.String())
}

// stop ends the agents and their process.
func (f *fleet) stop() error {
	timer := time.AfterFunc(stopLimit, f.end)
	defer timer.Stop()
	defer f.end()
	err := f.input.Close()
	var said strings.Builder
	for f.output.Scan() {
		said.WriteString(f.output.Text() + "\n")
	}
	if ended := f.command.Wait(); ended != nil {
		return errors.Join(err, fmt.Errorf("ending the fleet: %w\n%s", ended, said.String()))
	}
	return err
}
