package opampserver

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/open-telemetry/opamp-go/protobufs"
)

const (
	// errorTimeline is how many messages an error shows: enough for one change
	// of configuration, few enough to read in a terminal.
	errorTimeline = 24
	// maxText cuts error texts in a summary line, in bytes.
	maxText = 160
)

// Timeline renders the last messages, one line each, with the seconds since the
// start. An empty uid shows every agent; last is the number of lines, 0 for all.
func (s *Server) Timeline(uid string, last int) string {
	messages := s.Messages()
	if uid != "" {
		kept := messages[:0]
		for _, m := range messages {
			if m.UID == uid {
				kept = append(kept, m)
			}
		}
		messages = kept
	}
	var b strings.Builder
	if cut := len(messages) - last; last > 0 && cut > 0 {
		fmt.Fprintf(&b, "... %d earlier messages\n", cut)
		messages = messages[cut:]
	}
	if len(messages) == 0 {
		return "timeline: no messages"
	}
	for _, m := range messages {
		fmt.Fprintf(&b, "%8.3fs #%d %s\n", m.Time.Sub(s.started).Seconds(), m.Index, m.Summary())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Summary describes the message in one line, without secrets: bodies of
// configurations appear only as sizes.
func (m Message) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%d %s ", m.Transport, m.Conn, m.UID)
	if m.Received != nil {
		b.WriteString("<-")
		summarizeReceived(&b, m.Received)
	} else {
		b.WriteString("->")
		summarizeSent(&b, m.Sent)
	}
	if m.Err != nil {
		fmt.Fprintf(&b, " NOT WRITTEN: %s", shorten(m.Err.Error()))
	}
	return b.String()
}

func summarizeReceived(b *strings.Builder, m *protobufs.AgentToServer) {
	fmt.Fprintf(b, " seq=%d", m.GetSequenceNum())
	if m.GetAgentDescription() != nil {
		b.WriteString(" description")
	}
	if h := m.GetHealth(); h != nil {
		fmt.Fprintf(b, " healthy=%t", h.GetHealthy())
		if h.GetLastError() != "" {
			fmt.Fprintf(b, "(%q)", shorten(h.GetLastError()))
		}
	}
	if m.GetEffectiveConfig() != nil {
		files := m.GetEffectiveConfig().GetConfigMap().GetConfigMap()
		fmt.Fprintf(b, " effective(%d files, %d bytes)", len(files), bodyBytes(files))
	}
	if r := m.GetRemoteConfigStatus(); r != nil {
		fmt.Fprintf(b, " remote=%s %s", statusName(r.GetStatus()), shortHash(r.GetLastRemoteConfigHash()))
		if r.GetErrorMessage() != "" {
			fmt.Fprintf(b, "(%q)", shorten(r.GetErrorMessage()))
		}
	}
	if c := m.GetConnectionSettingsStatus(); c != nil {
		fmt.Fprintf(b, " connection_settings=%s %s",
			strings.TrimPrefix(c.GetStatus().String(), "ConnectionSettingsStatuses_"), shortHash(c.GetLastConnectionSettingsHash()))
		if c.GetErrorMessage() != "" {
			fmt.Fprintf(b, "(%q)", shorten(c.GetErrorMessage()))
		}
	}
	if a := m.GetAvailableComponents(); a != nil {
		fmt.Fprintf(b, " components(%d) %s", len(a.GetComponents()), shortHash(a.GetHash()))
	}
	for _, part := range []struct {
		name string
		set  bool
	}{
		{"packages", m.GetPackageStatuses() != nil},
		{"custom_capabilities", m.GetCustomCapabilities() != nil},
		{"connection_settings_request", m.GetConnectionSettingsRequest() != nil},
		{"disconnect", m.GetAgentDisconnect() != nil},
	} {
		if part.set {
			b.WriteString(" " + part.name)
		}
	}
	if c := m.GetCustomMessage(); c != nil {
		fmt.Fprintf(b, " custom(%s/%s, %d bytes)", c.GetCapability(), c.GetType(), len(c.GetData()))
	}
	if m.GetFlags() != 0 {
		fmt.Fprintf(b, " flags=%#x", m.GetFlags())
	}
}

func summarizeSent(b *strings.Builder, m *protobufs.ServerToAgent) {
	if e := m.GetErrorResponse(); e != nil {
		fmt.Fprintf(b, " error=%s(%q)",
			strings.TrimPrefix(e.GetType().String(), "ServerErrorResponseType_"), shorten(e.GetErrorMessage()))
	}
	if r := m.GetRemoteConfig(); r != nil {
		files := r.GetConfig().GetConfigMap()
		fmt.Fprintf(b, " offer %s(%d files, %d bytes)", shortHash(r.GetConfigHash()), len(files), bodyBytes(files))
	}
	if c := m.GetConnectionSettings(); c != nil {
		fmt.Fprintf(b, " connection_settings %s", shortHash(c.GetHash()))
	}
	if p := m.GetPackagesAvailable(); p != nil {
		fmt.Fprintf(b, " packages(%d)", len(p.GetPackages()))
	}
	if m.GetFlags() != 0 {
		fmt.Fprintf(b, " flags=%#x", m.GetFlags())
	}
	if m.GetAgentIdentification() != nil {
		fmt.Fprintf(b, " new_uid=%s", uidText(m.GetAgentIdentification().GetNewInstanceUid()))
	}
	if c := m.GetCommand(); c != nil {
		fmt.Fprintf(b, " command=%s", c.GetType())
	}
	if c := m.GetCustomMessage(); c != nil {
		fmt.Fprintf(b, " custom(%s/%s, %d bytes)", c.GetCapability(), c.GetType(), len(c.GetData()))
	}
}

func statusName(s protobufs.RemoteConfigStatuses) string {
	return strings.TrimPrefix(s.String(), "RemoteConfigStatuses_")
}

// shortHash shows the first 4 bytes: enough to tell the offers of a test apart.
func shortHash(hash []byte) string {
	if len(hash) > 4 {
		return hex.EncodeToString(hash[:4])
	}
	return hex.EncodeToString(hash)
}

func bodyBytes(files map[string]*protobufs.AgentConfigObject) int {
	n := 0
	for _, f := range files {
		n += len(f.GetBody())
	}
	return n
}

// shorten cuts at a rune boundary.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// sinceText prints a moment relative to now for error texts.
func sinceText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Millisecond).String() + " ago"
}
