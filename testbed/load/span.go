package load

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// makeSpan builds the payload of one request.
func makeSpan(run string, seq uint64) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", ServiceName)
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetName("load")
	span.SetKind(ptrace.SpanKindInternal)

	// A trace of its own for each span; identifiers must not be zero.
	var traceID pcommon.TraceID
	binary.BigEndian.PutUint64(traceID[:8], rand.Uint64()|1) //nolint:gosec // identifiers, not secrets
	binary.BigEndian.PutUint64(traceID[8:], seq)
	span.SetTraceID(traceID)
	span.SetSpanID(pcommon.SpanID(traceID[:8]))

	now := pcommon.NewTimestampFromTime(time.Now())
	span.SetStartTimestamp(now)
	span.SetEndTimestamp(now)
	span.Attributes().PutInt(SeqAttribute, int64(seq)) //nolint:gosec // counted from 1
	span.Attributes().PutStr(RunAttribute, run)
	return td
}
