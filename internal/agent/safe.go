package agent

import (
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
)

// canBeSafe reports whether there is something to run in safe mode, and a way to
// get there.
func canBeSafe(s *store, args []string) bool {
	return process.CanReexec && len(s.safe()) > 0 &&
		slices.ContainsFunc(safeArgs(args), func(arg string) bool { return strings.HasPrefix(arg, "--config=opamp:") })
}

// safeArgs returns the arguments of a process in safe mode: those that are no
// local layer.
func safeArgs(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name != "--config" && name != "-config" && name != "--set" && name != "-set" {
			out = append(out, args[i])
			continue
		}
		if !hasValue && i+1 < len(args) {
			i++
			value = args[i]
		}
		if strings.HasPrefix(value, "opamp:") {
			out = append(out, "--config="+value)
		}
	}
	return out
}

// lookToLeaveSafeMode starts the process anew with its own arguments when what
// is local has changed and passes the dry run. What is not local may have been
// at fault (a server of configurations, a port), so that it also tries without
// a change, rarely.
func (a *Agent) lookToLeaveSafeMode(entered string, since time.Time) {
	a.after(safeLook, func() {
		now := verdictContext(a.args())
		if now == entered && time.Since(since) < safeRetry {
			a.lookToLeaveSafeMode(entered, since)
			return
		}
		validate := a.validator()
		a.work.Go(func() {
			outcome := validate("")
			a.queue.post(func() {
				if outcome.Reason == "" {
					a.step(rollout.Repaired{})
					return
				}
				a.log.Load().Warn("The configuration with which safe mode could be left is not valid", zap.String("reason", a.scrubber.Text(outcome.Reason)))
				a.lookToLeaveSafeMode(now, time.Now())
			})
		})
	})
}

// safeBlocks are what a process in safe mode runs: this extension and those it
// needs, as they were written.
type safeBlocks map[string]any

var errLiteralSecrets = errors.New("there is no safe mode: the block of this extension, or of one it needs, holds secrets as literals; use references such as ${env:TOKEN}")

// saveSafeMode stores the blocks for safe mode, if they hold no secret.
func (a *Agent) saveSafeMode() {
	if a.storeErr != nil || a.safe {
		return
	}
	all, _ := a.snapshot.Unexpanded["extensions"].(map[string]any)
	blocks := safeBlocks{}
	for _, id := range a.settings.Requires {
		block, ok := all[id]
		if !ok {
			return // the host does not show what was written
		}
		blocks[id] = block
	}
	if redacted(map[string]any(blocks)) {
		a.log.Load().Info("Safe mode", zap.Error(errLiteralSecrets))
		blocks = nil
	}
	if err := a.store.saveSafe(blocks); err != nil {
		a.log.Load().Warn("Saving the configuration for safe mode", zap.Error(err))
	}
}

func redacted(value any) bool {
	switch v := value.(type) {
	case string:
		return v == "[REDACTED]"
	case map[string]any:
		for _, x := range v {
			if redacted(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, redacted)
	}
	return false
}
