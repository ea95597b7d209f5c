// Package policy decides what a remote configuration may contain.
//
// The settings come from the local configuration alone. A configuration is
// judged as the Collector will understand it: references are resolved by confmap
// itself, with providers that record instead of read. The package reads nothing
// but symbolic links, and only for rules about files.
package policy
