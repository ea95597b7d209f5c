// Package owntelemetry makes of the destinations that a server offers for the
// Collector's own telemetry what belongs into its configuration.
package owntelemetry
