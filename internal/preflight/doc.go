// Package preflight answers whether the Collector would accept a
// configuration, by asking the Collector: it runs the validate command of the
// same executable, with the same arguments, in a child process.
//
// A panic, a leak or an endless loop in a component's factory kills only the
// child. It covers parsing, validation and the construction of pipelines; not
// the creation of extensions and of own telemetry.
package preflight
