package session

import (
	"fmt"

	"github.com/open-telemetry/opamp-go/protobufs"
)

// SetCustomCapabilities announces custom capabilities in place of those that were
// announced before. The caller compares. After Stop it has no effect.
func (s *Session) SetCustomCapabilities(capabilities []string) error {
	s.report()
	return s.client.SetCustomCapabilities(customCapabilities(capabilities))
}

func customCapabilities(capabilities []string) *protobufs.CustomCapabilities {
	return &protobufs.CustomCapabilities{Capabilities: capabilities}
}

// SendCustomMessage sends a message of a capability that is announced. It returns
// at once. The channel is closed when the client writes the message to a
// connection; until then no other may be sent. A message whose channel is open
// when Stop has returned was not sent, and never will be. The data must not be
// modified, and stays with the client until the channel is closed.
func (s *Session) SendCustomMessage(capability, kind string, data []byte) (<-chan struct{}, error) {
	sent, err := s.client.SendCustomMessage(&protobufs.CustomMessage{Capability: capability, Type: utf8(kind), Data: data})
	if err != nil {
		return nil, fmt.Errorf("sending a custom message of capability %q: %w", capability, err)
	}
	s.report()
	return sent, nil
}
