//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package opampextension manages the Collector over OpAMP from inside its own
// process.
//
// An instance lives from one full reload to the next. It owns nothing but its
// lease on the process's agent (internal/agent), which keeps the session.
package opampextension
