package opampextension

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.opentelemetry.io/collector/component"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// connections returns what the agent must know of offered connections.
func (e *opampExtension) connections(ctx context.Context) (agent.Connections, error) {
	connection, capabilities := e.cfg.Server.connection(), e.cfg.Capabilities
	loaded, err := e.loadTLS(ctx)
	if err != nil {
		return agent.Connections{}, err
	}
	return agent.Connections{
		OpAMP:  capabilities.AcceptsOpAMPConnectionSettings,
		Others: capabilities.AcceptsOtherConnectionSettings,
		Own: map[connsettings.Signal]bool{
			connsettings.Metrics: capabilities.ReportsOwnMetrics,
			connsettings.Traces:  capabilities.ReportsOwnTraces,
			connsettings.Logs:    capabilities.ReportsOwnLogs,
		},
		VerifyTimeout: e.cfg.ConnectionSettings.VerifyTimeout,
		Local:         e.localServer(),
		TLS:           loaded,
		Authenticated: connection.Auth != (component.ID{}),
		Certificate: agent.CertificateSettings{
			Request:   e.cfg.Certificate.Request,
			Ephemeral: e.cfg.Certificate.EphemeralStorage,
			Bootstrap: e.bootstrap(),
		},
	}, nil
}

// loadTLS loads the local TLS settings. A bootstrap certificate may have been
// removed, as the user wants it.
func (e *opampExtension) loadTLS(ctx context.Context) (*tls.Config, error) {
	set := e.cfg.Server.connection().TLS
	if !e.usesTLS() {
		return nil, nil //nolint:nilnil // nothing will look at it
	}
	for _, file := range e.bootstrap() {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			set.CertFile, set.KeyFile = "", ""
		}
	}
	return set.LoadTLSConfig(ctx)
}

// usesTLS reports whether there may be a connection with TLS.
func (e *opampExtension) usesTLS() bool {
	c := e.cfg.Server.connection()
	return c.tls(&tls.Config{MinVersion: tls.VersionTLS12}) != nil || e.cfg.Capabilities.AcceptsOpAMPConnectionSettings
}

// bootstrap are the files to remove once the agent has a certificate of its own.
func (e *opampExtension) bootstrap() []string {
	set := e.cfg.Server.connection().TLS
	if !e.cfg.Certificate.RemoveBootstrap || set.CertFile == "" || set.KeyFile == "" {
		return nil
	}
	return []string{set.CertFile, set.KeyFile}
}

// localServer identifies the local settings of the connection. Values that are
// hidden in texts, such as tokens, do not count: they rotate.
func (e *opampExtension) localServer() string {
	c := e.cfg.Server.connection()
	sum := sha256.Sum256(fmt.Appendf(nil, "%t %q %v %q %q %q %q", e.cfg.Server.HTTP != nil, c.Endpoint, c.Auth, c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile, c.TLS.ServerName))
	return hex.EncodeToString(sum[:8])
}
