package opampextension

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/common"
	"github.com/shirou/gopsutil/v4/process"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.40.0/processconv"
)

// observeProcess registers the metrics of this process that the semantic conventions
// name process.*, in the version that the Collector v0.158 uses for its own
// telemetry, which has others (otelcol_process_*). What cannot be read on a platform,
// or at a time, is left out. Nothing is observed after stop has returned.
func observeProcess(meter metric.Meter) (stop func() error, err error) {
	// Own is this process also where HOST_PROC names the host's /proc, in which
	// another process has this ID.
	own := context.WithValue(context.Background(), common.EnvKey, common.EnvMap{common.HostProcEnvKey: "/proc"})
	self, err := process.NewProcessWithContext(own, int32(os.Getpid())) //nolint:gosec // no process ID is larger
	if err != nil {
		return nil, fmt.Errorf("looking at this process: %w", err)
	}

	var errs []error
	count := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		c, err := meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	cpu := processconv.CPUTime{}
	cpuTime, err := meter.Float64ObservableCounter(cpu.Name(), metric.WithUnit(cpu.Unit()), metric.WithDescription(cpu.Description()))
	errs = append(errs, err)
	up := processconv.Uptime{}
	uptime, err := meter.Float64ObservableGauge(up.Name(), metric.WithUnit(up.Unit()), metric.WithDescription(up.Description()))
	errs = append(errs, err)
	usage, virtual, thread := processconv.MemoryUsage{}, processconv.MemoryVirtual{}, processconv.ThreadCount{}
	memory := count(usage.Name(), usage.Unit(), usage.Description())
	space := count(virtual.Name(), virtual.Unit(), virtual.Description())
	threads := count(thread.Name(), thread.Unit(), thread.Description())
	file, handle := processconv.UnixFileDescriptorCount{}, processconv.WindowsHandleCount{}
	var files metric.Int64ObservableUpDownCounter
	if runtime.GOOS == "windows" {
		files = count(handle.Name(), handle.Unit(), handle.Description())
	} else {
		files = count(file.Name(), file.Unit(), file.Description())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("registering the metrics of this process: %w", err)
	}

	user := metric.WithAttributes(cpu.AttrCPUMode(processconv.CPUModeUser))
	system := metric.WithAttributes(cpu.AttrCPUMode(processconv.CPUModeSystem))
	var mu sync.Mutex // self keeps what it has read, and each reader of the metrics has a goroutine
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		mu.Lock()
		defer mu.Unlock()
		if times, err := self.TimesWithContext(own); err == nil {
			o.ObserveFloat64(cpuTime, times.User, user)
			o.ObserveFloat64(cpuTime, times.System, system)
		}
		if info, err := self.MemoryInfoWithContext(own); err == nil {
			o.ObserveInt64(memory, int64(info.RSS)) //nolint:gosec // no process is that large
			o.ObserveInt64(space, int64(info.VMS))  //nolint:gosec // as above
		}
		if n, err := self.NumThreadsWithContext(own); err == nil {
			o.ObserveInt64(threads, int64(n))
		}
		if n, err := self.NumFDsWithContext(own); err == nil {
			o.ObserveInt64(files, int64(n))
		}
		if created, err := self.CreateTimeWithContext(own); err == nil {
			o.ObserveFloat64(uptime, time.Since(time.UnixMilli(created)).Seconds())
		}
		return nil
	}, cpuTime, uptime, memory, space, threads, files)
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of this process: %w", err)
	}
	return registration.Unregister, nil
}
