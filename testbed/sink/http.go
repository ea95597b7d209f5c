package sink

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// contentType is the only encoding of OTLP/HTTP that the sink understands.
const contentType = "application/x-protobuf"

func (s *Sink) httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", s.export(func(body []byte) ([]byte, error) {
		r := ptraceotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			return nil, err
		}
		s.arrived(func(a *account, now time.Time) { a.addTraces(r.Traces(), now) })
		return ptraceotlp.NewExportResponse().MarshalProto()
	}))
	mux.HandleFunc("POST /v1/metrics", s.export(func(body []byte) ([]byte, error) {
		r := pmetricotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			return nil, err
		}
		s.arrived(func(a *account, now time.Time) { a.addMetrics(r.Metrics(), now) })
		return pmetricotlp.NewExportResponse().MarshalProto()
	}))
	mux.HandleFunc("POST /v1/logs", s.export(func(body []byte) ([]byte, error) {
		r := plogotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			return nil, err
		}
		s.arrived(func(a *account, now time.Time) { a.addLogs(r.Logs(), now) })
		return plogotlp.NewExportResponse().MarshalProto()
	}))
	return mux
}

// export makes a handler from a function that takes a request body in and
// returns the answer's.
func (s *Sink) export(take func(body []byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if begin, ok := r.Context().Value(connectedKey{}).(time.Time); ok && s.age > 0 && time.Since(begin) > s.age {
			w.Header().Set("Connection", "close") // over HTTP/2 the same as GOAWAY
		}
		if !s.used(HTTP, r.Header, r.TLS) {
			http.Error(w, "a required header is missing, or wrong", http.StatusUnauthorized)
			return
		}
		if got := r.Header.Get("Content-Type"); got != contentType {
			http.Error(w, fmt.Sprintf("content type %q is not %s", got, contentType), http.StatusUnsupportedMediaType)
			return
		}
		body, err := readBody(w, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := take(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(answer) // the client may be gone
	}
}

// readBody reads a plain or gzip body of bounded size.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var body io.Reader = http.MaxBytesReader(w, r.Body, maxMessageBytes)
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		zipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		body = io.LimitReader(zipped, maxMessageBytes)
	default:
		return nil, fmt.Errorf("content encoding %q is not supported", encoding)
	}
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	return content, nil
}
