package agent

import (
	"context"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// Value returns one value of the connections that belong to the configuration which
// the last [ProviderLease.Retrieve] returned; path is that of [opampuri.URI]. Ok is
// false if the server has offered none. Another value comes with another
// configuration: the function given to Retrieve tells of both.
func (*ProviderLease) Value(_ context.Context, _ string) (value string, ok bool, err error) {
	return "", false, nil
}

// PeekValue is to [ProviderLease.Value] what [Peek] is to Retrieve.
func PeekValue(_, _, _ string, _ process.Purpose) (value string, ok bool, err error) {
	return "", false, nil
}
