package sink_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

// secured is a sink that demands a certificate, and one for its clients.
func secured(t *testing.T, settings sink.Settings) (*sink.Sink, *testca.CA, testca.Pair) {
	t.Helper()
	ca, err := testca.New("root")
	require.NoError(t, err)
	server, err := ca.Server(testca.For(time.Hour))
	require.NoError(t, err)
	client, err := ca.Client("exporter", testca.For(time.Hour))
	require.NoError(t, err)
	settings.TLS = testca.ServerConfig(server, ca)
	s, err := sink.Start(settings)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(patiently(t))) })
	return s, ca, client
}

func clientConfig(ca *testca.CA, pairs ...testca.Pair) *tls.Config {
	config := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
	for _, p := range pairs {
		config.Certificates = append(config.Certificates, p.TLS())
	}
	return config
}

// sendGRPC exports a span with a token.
func sendGRPC(ctx context.Context, conn *grpc.ClientConn, token string) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", token)
	_, err := ptraceotlp.NewGRPCClient(conn).Export(ctx, ptraceotlp.NewExportRequestFromTraces(numbered("run", 1)))
	return err
}

func dial(t *testing.T, s *sink.Sink, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.Endpoint(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func TestCredentialsOverGRPC(t *testing.T) {
	t.Parallel()
	s, ca, client := secured(t, sink.Settings{})
	s.Require("authorization", "Bearer one")
	conn := dial(t, s, clientConfig(ca, client))
	require.NoError(t, sendGRPC(patiently(t), conn, "Bearer one"))
	assert.Equal(t, codes.Unauthenticated, status.Code(sendGRPC(patiently(t), conn, "Bearer two")))
	s.Require("authorization", "Bearer one", "Bearer two")
	require.NoError(t, sendGRPC(patiently(t), conn, "Bearer two"))
	serial := client.Leaf.SerialNumber.String()
	uses := s.Uses()
	assert.Len(t, uses, 3)
	for _, use := range []sink.Use{
		{Transport: sink.GRPC, Authorization: "Bearer one", Serial: serial},
		{Transport: sink.GRPC, Authorization: "Bearer two", Serial: serial},
		{Transport: sink.GRPC, Authorization: "Bearer two", Serial: serial, Refused: true},
	} {
		assert.Equal(t, 1, uses[use].Count, use)
	}
	assert.Equal(t, 2, s.Spans(), "what is refused does not count")
	require.Error(t, sendGRPC(patiently(t), dial(t, s, clientConfig(ca)), "Bearer one"), "without a certificate")
}

func TestCredentialsOverHTTP(t *testing.T) {
	t.Parallel()
	s, ca, client := secured(t, sink.Settings{})
	s.Require("X-Tenant", "a")
	transport := &http.Transport{TLSClientConfig: clientConfig(ca, client)}
	t.Cleanup(transport.CloseIdleConnections)
	send := func(transport *http.Transport, tenant string) (int, error) {
		req, err := http.NewRequestWithContext(patiently(t), http.MethodPost, s.HTTPEndpoint()+"/v1/logs", http.NoBody)
		require.NoError(t, err)
		req.Header = http.Header{"Content-Type": {"application/x-protobuf"}, "X-Tenant": {tenant}}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		require.NoError(t, res.Body.Close())
		return res.StatusCode, nil
	}
	for tenant, want := range map[string]int{"a": http.StatusOK, "b": http.StatusUnauthorized} {
		got, err := send(transport, tenant)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	use, err := s.WaitUse(patiently(t), time.Time{}, func(u sink.Use) bool { return u.Transport == sink.HTTP && u.Refused })
	require.NoError(t, err)
	assert.Equal(t, client.Leaf.SerialNumber.String(), use.Serial)
	without := &http.Transport{TLSClientConfig: clientConfig(ca)}
	t.Cleanup(without.CloseIdleConnections)
	_, err = send(without, "a")
	require.Error(t, err, "without a certificate")
}

// A client that is asked to connect again shows the certificate that it then has.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	s, ca, one := secured(t, sink.Settings{ConnectionAge: 50 * time.Millisecond})
	two, err := ca.Client("exporter", testca.For(time.Hour))
	require.NoError(t, err)
	config := clientConfig(ca)
	var handshakes atomic.Int64
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if handshakes.Add(1) == 1 {
			return new(one.TLS()), nil
		}
		return new(two.TLS()), nil
	}
	conn := dial(t, s, config)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.NoError(c, sendGRPC(patiently(t), conn, ""))
		_, ok := s.Uses()[sink.Use{Transport: sink.GRPC, Serial: two.Leaf.SerialNumber.String()}]
		assert.True(c, ok)
	}, patience, 5*time.Millisecond)
}

func TestResourcesScopesAndBodies(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := time.Now()
	e := httpExporter{base: s.HTTPEndpoint()}
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "x")
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName("scope")
	sl.LogRecords().AppendEmpty().Body().SetStr("hello there")
	e.logs(t, ld)
	e.metrics(t, someMetrics())
	require.NoError(t, s.WaitLogBody(patiently(t), "hello"))
	assert.Equal(t, []string{"hello there"}, s.LogBodies())
	attributes, err := s.WaitResource(patiently(t), sink.Logs, before)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"service.name": "x"}, attributes)
	assert.Equal(t, []string{"scope"}, s.Scopes(sink.Logs))
	assert.Empty(t, s.Scopes(sink.Traces))
	again := time.Now()
	assert.Empty(t, s.Resources(sink.Logs, again))
	e.logs(t, ld)
	assert.Len(t, s.Resources(sink.Logs, again), 1, "the same resource once more")
	require.NoError(t, s.WaitMetricAfter(patiently(t), s.Metrics()[0], before))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, s.WaitMetricAfter(ended, s.Metrics()[0], time.Now()), "after")
	require.ErrorContains(t, s.WaitLogBody(ended, "goodbye"), "2 seen")
	_, err = s.WaitResource(ended, sink.Traces, before)
	require.ErrorContains(t, err, "traces")
	_, err = s.WaitUse(ended, time.Now(), func(sink.Use) bool { return true })
	require.ErrorContains(t, err, "1 kinds seen")
}
