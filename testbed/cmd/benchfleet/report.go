package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// table renders the figures in Markdown, a column for each number of agents.
func table(all []figures) string {
	var b strings.Builder
	row := func(name string, cell func(f figures) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, f := range all {
			fmt.Fprintf(&b, " %s |", cell(f))
		}
		b.WriteByte('\n')
	}
	row("agents", func(f figures) string { return strconv.Itoa(f.Agents) })
	fmt.Fprintf(&b, "| --- |%s\n", strings.Repeat(" ---: |", len(all)))
	row("load average before", func(f figures) string { return f.Load })
	row("all started and connected", func(f figures) string { return seconds(f.Took) })
	row("**agent**: resident memory", func(f figures) string { return kilobytes(f.AgentRSS) })
	row("live heap / stacks", func(f figures) string { return kilobytes(f.AgentHeap) + " / " + kilobytes(f.AgentStacks) })
	row("goroutines / open files", func(f figures) string { return fmt.Sprintf("%.1f / %.1f", f.AgentGoroutines, f.AgentFiles) })
	row("**server**, per connection: resident memory", func(f figures) string { return kilobytes(f.ServerRSS) })
	row("live heap / stacks", func(f figures) string { return kilobytes(f.ServerHeap) + " / " + kilobytes(f.ServerStacks) })
	row("goroutines", func(f figures) string { return fmt.Sprintf("%.1f", f.ServerGoroutines) })
	row("**heartbeats** seen / most in a second of the last interval", func(f figures) string { return fmt.Sprintf("%d / %d", f.Beats, f.BeatPeak) })
	row("bytes to / from the server, per heartbeat", func(f figures) string { return fmt.Sprintf("%.0f / %.0f", f.BeatSent, f.BeatReceived) })
	row("allocations / bytes allocated, per heartbeat", func(f figures) string { return fmt.Sprintf("%.0f / %.0f", f.BeatMallocs, f.BeatAllocated) })
	row("CPU of agent / server, per heartbeat", func(f figures) string { return micros(f.BeatCPU) + " / " + micros(f.BeatServerCPU) })
	row("**push to all**: last offer written", func(f figures) string { return millis(f.Written.Max) })
	row("APPLYING p50 / p99", func(f figures) string { return millis(f.Applying.P50) + " / " + millis(f.Applying.P99) })
	row("APPLIED p50 / p99 / max", func(f figures) string {
		return millis(f.Applied.P50) + " / " + millis(f.Applied.P99) + " / " + millis(f.Applied.Max)
	})
	row("messages / bytes to the server, per change", func(f figures) string { return fmt.Sprintf("%.1f / %.0f", f.PushMessages, f.PushSent) })
	row("CPU of agent / server, per change", func(f figures) string { return micros(f.PushCPU) + " / " + micros(f.PushServerCPU) })
	row("**restart at once**: most connections in 100 ms / 1 s", func(f figures) string { return peaks(f.Restart) })
	row("half / 99 % / all are back", func(f figures) string { return times(f.Restart) })
	row("**server away for a while**: most connections in 100 ms / 1 s", func(f figures) string { return peaks(f.Outage) })
	row("half / 99 % / all are back", func(f figures) string { return times(f.Outage) })
	row("messages, bytes to / from the server, per agent that comes back", func(f figures) string {
		return fmt.Sprintf("%.1f, %.0f / %.0f", f.Restart.Messages, f.Restart.Sent, f.Restart.Received)
	})
	row("CPU of the server, per agent that comes back", func(f figures) string { return micros(f.Restart.ServerCPU) })
	return b.String()
}

func peaks(s storm) string { return fmt.Sprintf("%d / %d", s.Peak100ms, s.PeakSecond) }

func times(s storm) string { return seconds(s.Half) + " / " + seconds(s.P99) + " / " + seconds(s.All) }

func kilobytes(n float64) string { return fmt.Sprintf("%.1f kB", n/1000) }

func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
