package opampextension

import (
	"errors"
	"fmt"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampcustommessages"

	"github.com/otelcol-opamp/otelcol-opamp/internal/custommessages"
)

var (
	_ opampcustommessages.CustomCapabilityRegistry = (*opampExtension)(nil)
	_ opampcustommessages.CustomCapabilityHandler  = customRegistration{}
)

// errNotRunning is why nothing can be registered.
var errNotRunning = errors.New("the OpAMP extension is not running: " +
	"components register in their Start, and an extension that does must name the OpAMP extension among its dependencies")

// Register implements [opampcustommessages.CustomCapabilityRegistry]. It fails
// before Start and after Shutdown. It may be called concurrently.
func (e *opampExtension) Register(capability string, opts ...opampcustommessages.CustomCapabilityRegisterOption) (opampcustommessages.CustomCapabilityHandler, error) {
	lease := e.lease.Load()
	if lease == nil {
		return nil, fmt.Errorf("registering custom capability %q: %w", capability, errNotRunning)
	}
	options := opampcustommessages.DefaultCustomCapabilityRegisterOptions()
	for _, opt := range opts {
		opt(options)
	}
	h, err := custommessages.Register(lease.CustomMessages(), capability, options.MaxQueuedMessages, customMessage,
		func(m *protobufs.CustomMessage) custommessages.Message {
			return custommessages.Message{Capability: m.GetCapability(), Type: m.GetType(), Data: m.GetData()}
		})
	if err != nil {
		return nil, err
	}
	return customRegistration{h}, nil
}

func customMessage(m custommessages.Message) *protobufs.CustomMessage {
	return &protobufs.CustomMessage{Capability: m.Capability, Type: m.Type, Data: m.Data}
}

// customRegistration is safe for concurrent use.
type customRegistration struct {
	*custommessages.Registration[*protobufs.CustomMessage]
}

// Message implements [opampcustommessages.CustomCapabilityHandler]. The channel is
// never closed.
func (h customRegistration) Message() <-chan *protobufs.CustomMessage { return h.Messages() }

// SendMessage implements [opampcustommessages.CustomCapabilityHandler]. The
// message is copied.
func (h customRegistration) SendMessage(messageType string, message []byte) (chan struct{}, error) {
	done, err := h.Send(messageType, message)
	if errors.Is(err, custommessages.ErrFull) {
		return done, types.ErrCustomMessagePending // as contrib's, for those who compare with ==
	}
	return done, err
}
