// Package remoteconfig parses, identifies and merges an offered remote
// configuration.
//
// It holds values only: no I/O, no clock, no logger.
package remoteconfig
