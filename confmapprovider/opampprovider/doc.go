//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package opampprovider serves the remote configuration that the process's
// OpAMP agent says is to run, and signals when that changes.
package opampprovider
