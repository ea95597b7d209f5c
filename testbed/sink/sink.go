// Package sink is an OTLP endpoint, gRPC and HTTP, that counts what arrives: the
// far end of a pipeline under test.
//
// Spans of the load package are recorded by run and number, so that a test can
// ask which of the accepted ones are missing. Of attributes it remembers when
// each key and value was first seen, which tells when a configuration that adds
// one began to work. Of resources, scopes, metrics and log records it remembers
// what a test of own telemetry asks for, and of requests which credentials they had.
//
// All methods of [Sink] are safe for concurrent use.
package sink

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // the Collector's OTLP exporter compresses by default
	"google.golang.org/grpc/keepalive"
)

const (
	defaultAddr = "127.0.0.1:0"
	// maxMessageBytes is far above what a batch of a test has.
	maxMessageBytes = 64 << 20
	// headerTimeout only guards against a peer that connects and says nothing.
	headerTimeout = 10 * time.Second
)

// Settings configures a [Sink]. The zero value listens on ephemeral loopback
// ports.
type Settings struct {
	// Addr is the TCP address of the gRPC endpoint, 127.0.0.1:0 when empty.
	Addr string
	// HTTPAddr is the TCP address of the HTTP endpoint, 127.0.0.1:0 when empty.
	HTTPAddr string
	// TLS makes both endpoints speak TLS. It is cloned. With ClientAuth and
	// ClientCAs in it clients without a valid certificate are turned away.
	TLS *tls.Config
	// ConnectionAge is after how long clients are asked to connect again, without a
	// request being lost; 0 for never. An exporter shows a certificate only when it
	// connects.
	ConnectionAge time.Duration
	// Via is the resource attribute that says through which Collector a span came.
	// When it is not empty, every span is remembered: see [Sink.Arrivals].
	Via string
}

// Sink is a running endpoint. It is created by [Start] and ended by [Sink.Stop].
type Sink struct {
	grpcListener, httpListener net.Listener
	grpc                       *grpc.Server
	http                       *http.Server
	scheme                     string
	age                        time.Duration
	serving                    sync.WaitGroup

	mu sync.Mutex
	// mu guards everything below.
	changed chan struct{} // closed and replaced whenever something arrives
	account
	// required are the values that a header may have, by canonical key.
	required map[string][]string
	uses     map[Use]*Period
}

// Start listens and serves until [Sink.Stop].
func Start(settings Settings) (*Sink, error) {
	var lc net.ListenConfig
	grpcListener, err := lc.Listen(context.Background(), "tcp", cmp.Or(settings.Addr, defaultAddr))
	if err != nil {
		return nil, fmt.Errorf("starting sink: %w", err)
	}
	httpListener, err := lc.Listen(context.Background(), "tcp", cmp.Or(settings.HTTPAddr, defaultAddr))
	if err != nil {
		_ = grpcListener.Close() // nothing was accepted on it
		return nil, fmt.Errorf("starting sink: %w", err)
	}
	s := &Sink{
		grpcListener: grpcListener,
		httpListener: httpListener,
		scheme:       "http",
		age:          settings.ConnectionAge,
		changed:      make(chan struct{}),
		account:      newAccount(settings.Via),
		required:     map[string][]string{},
		uses:         map[Use]*Period{},
	}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessageBytes), grpc.UnaryInterceptor(s.admit)}
	if settings.TLS != nil {
		s.scheme = "https"
		options = append(options, grpc.Creds(credentials.NewTLS(settings.TLS)))
	}
	if s.age > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: s.age}))
	}
	s.grpc = grpc.NewServer(options...)
	ptraceotlp.RegisterGRPCServer(s.grpc, &tracesServer{sink: s})
	pmetricotlp.RegisterGRPCServer(s.grpc, &metricsServer{sink: s})
	plogotlp.RegisterGRPCServer(s.grpc, &logsServer{sink: s})
	s.http = &http.Server{
		Handler:           s.httpHandler(),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // of handshakes that failed
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectedKey{}, time.Now())
		},
	}
	if settings.TLS != nil {
		s.http.TLSConfig = settings.TLS.Clone()
	}
	// Both end with the error of a closed listener, and only at Stop.
	s.serving.Go(func() { _ = s.grpc.Serve(grpcListener) })
	s.serving.Go(func() {
		if s.http.TLSConfig != nil {
			_ = s.http.ServeTLS(httpListener, "", "")
			return
		}
		_ = s.http.Serve(httpListener)
	})
	return s, nil
}

// Endpoint is the host and port of the gRPC endpoint.
func (s *Sink) Endpoint() string { return s.grpcListener.Addr().String() }

// HTTPEndpoint is the base URL of the HTTP endpoint, without a path: what the
// Collector's OTLP/HTTP exporter takes as its endpoint.
func (s *Sink) HTTPEndpoint() string { return s.scheme + "://" + s.httpListener.Addr().String() }

// Stop refuses new requests, waits for those in progress until ctx ends, and
// closes all connections. What was recorded can still be asked for.
func (s *Sink) Stop(ctx context.Context) error {
	graceful := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(graceful)
	}()
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close() // the error of Shutdown says more
	}
	select {
	case <-graceful:
	case <-ctx.Done():
		s.grpc.Stop()
		<-graceful
		err = context.Cause(ctx)
	}
	s.serving.Wait()
	if err != nil {
		return fmt.Errorf("stopping sink: %w", err)
	}
	return nil
}

// await calls ready, with the lock held, now and after each arrival until it
// returns true.
func (s *Sink) await(ctx context.Context, ready func() bool) error {
	for {
		s.mu.Lock()
		done, changed := ready(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// arrived lets add take in what has arrived and wakes the waits.
func (s *Sink) arrived(add func(*account, time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.account, time.Now())
	close(s.changed)
	s.changed = make(chan struct{})
}

type tracesServer struct {
	ptraceotlp.UnimplementedGRPCServer
	sink *Sink
}

// Export implements ptraceotlp.GRPCServer.
func (t *tracesServer) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	t.sink.arrived(func(a *account, now time.Time) { a.addTraces(r.Traces(), now) })
	return ptraceotlp.NewExportResponse(), nil
}

type metricsServer struct {
	pmetricotlp.UnimplementedGRPCServer
	sink *Sink
}

// Export implements pmetricotlp.GRPCServer.
func (m *metricsServer) Export(_ context.Context, r pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	m.sink.arrived(func(a *account, now time.Time) { a.addMetrics(r.Metrics(), now) })
	return pmetricotlp.NewExportResponse(), nil
}

type logsServer struct {
	plogotlp.UnimplementedGRPCServer
	sink *Sink
}

// Export implements plogotlp.GRPCServer.
func (l *logsServer) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	l.sink.arrived(func(a *account, now time.Time) { a.addLogs(r.Logs(), now) })
	return plogotlp.NewExportResponse(), nil
}
