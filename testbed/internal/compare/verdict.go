package compare

import (
	"bytes"
	"context"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// offered is a configuration that was sent.
type offered struct {
	hash []byte
	time time.Time
	from int // index of the first message that may answer it
	err  error
}

// offer sends the configuration exactly once: one that the agent reports to have
// left would otherwise be offered again and again.
func (w *World) offer(c candidate, mark string) offered {
	o := opampserver.YAML(c.yaml(mark))
	if !w.system.Managed {
		return w.signal(c.yaml(mark))
	}
	sent := offered{hash: o.Digest(), time: time.Now(), from: w.server.Mark()}
	sent.err = w.server.OfferOnce(w.uid, o)
	return sent
}

// told is what the agent has said of a configuration.
type told struct {
	time    time.Time
	verdict protobufs.RemoteConfigStatuses
	message string
}

// verdict waits for the agent to say what has become of an offer.
func (w *World) verdict(ctx context.Context, o offered) (told, error) {
	if o.err != nil {
		return told{}, o.err
	}
	m, err := w.server.WaitMessage(ctx, o.from, func(m opampserver.Message) bool {
		s := m.Received.GetRemoteConfigStatus()
		return s != nil && bytes.Equal(s.GetLastRemoteConfigHash(), o.hash) && (s.GetStatus() == applied || s.GetStatus() == failed)
	})
	if err != nil {
		return told{}, err
	}
	s := m.Received.GetRemoteConfigStatus()
	return told{m.Time, s.GetStatus(), s.GetErrorMessage()}, nil
}
