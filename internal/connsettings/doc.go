// Package connsettings holds what a server offers of connections, and decides which
// settings the connection to the server itself uses.
package connsettings
