package session

import "github.com/open-telemetry/opamp-go/client"

// HeartbeatsOf reports what was found in the client.
func HeartbeatsOf(c client.OpAMPClient) (set, known bool) {
	h := heartbeatsOf(c)
	return h.set != nil, h.milliseconds != nil
}
