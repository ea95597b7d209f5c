// Package statedir keeps the agent's small records in one folder so that they
// survive a crash.
//
// A [Dir] is one agent's folder. Every write is atomic and durable: a reader
// sees the former content or the latter, also after a power cut. Every record
// carries its format's version and a checksum; one that does not match is
// reported as [ErrCorrupt] and can be moved aside, and the content that
// [Dir.Replace] kept can be used in its place. Symbolic links in the folder are
// not followed.
//
// A Dir opened with [Open] holds the folder's lock until Close, so at most one
// process writes. [OpenReadOnly] takes no lock and writes nothing; it is for
// commands that run beside the live process.
package statedir
