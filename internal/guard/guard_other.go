//go:build !unix

package guard

import "github.com/otelcol-opamp/otelcol-opamp/internal/console"

func followGuard() bool { return false }

func become() {
	console.Logger().Warn("There is no guard on this system, so that guard=true has no effect: let a service manager restart the Collector")
}
