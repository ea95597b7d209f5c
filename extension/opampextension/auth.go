package opampextension

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/extensionauth"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// authorization returns what asks the extension called id for credentials; nil
// if id is empty. The error texts are those of contrib's extension.
func authorization(id component.ID, host component.Host) (func(session.Request) (http.Header, error), error) {
	if id == (component.ID{}) {
		return nil, nil //nolint:nilnil // no authorization is no error
	}
	ext, ok := host.GetExtensions()[id]
	if !ok {
		return nil, fmt.Errorf("could not find auth extension %q", id)
	}
	auth, ok := ext.(extensionauth.HTTPClient)
	if !ok {
		return nil, fmt.Errorf("auth extension %q is not an extensionauth.HTTPClient", id)
	}
	return func(r session.Request) (http.Header, error) {
		captured := &capture{}
		transport, err := auth.RoundTripper(captured)
		if err != nil {
			return nil, fmt.Errorf("could not create roundtripper for authentication: %w", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, r.Method, r.URL, http.NoBody)
		if err != nil {
			return nil, err
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return nil, fmt.Errorf("asking extension %q: %w", id, err)
		}
		if captured.header == nil {
			return nil, errors.Join(fmt.Errorf("extension %q let no request through", id), response.Body.Close())
		}
		return captured.header, response.Body.Close()
	}, nil
}

// capture is the end of the chain: it notes the headers and sends nothing.
// Extensions add credentials to a request; the session makes its own.
type capture struct{ header http.Header }

// RoundTrip implements [http.RoundTripper].
func (c *capture) RoundTrip(r *http.Request) (*http.Response, error) {
	c.header = r.Header.Clone()
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
}
