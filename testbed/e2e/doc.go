// Package e2e tests the managed Collector from outside: a real process, an
// OpAMP server, a load in front and a sink behind. It holds tests only.
//
// The binary under test is the test distribution, or what the variable
// OTELCOL_OPAMP_BINARY names; a binary that was built with -race is fine.
package e2e
