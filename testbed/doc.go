// Package testbed is the root of everything that tests the Collector from
// outside: it holds no code of its own.
//
// The folders below are libraries and one program:
//
//   - opampserver: a scriptable OpAMP server that records every message
//   - load: an open-loop OTLP trace generator without retry
//   - sink: an OTLP endpoint that counts what arrives
//   - testca: an authority that issues certificates for tests
//   - otelcol: runs a real Collector binary as a child process
//   - faultreceiver, faultexporter, faultextension: Collector components that
//     fail on demand, for test builds made by ocb
//   - echoextension: a component that sends custom messages back
//   - cmd/opampserver: the development server with a page and a JSON API
//
// Nothing here imports the main module: the tests see the product only through
// its command line, its sockets and its files.
package testbed
