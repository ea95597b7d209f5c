package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/internal/health"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

const (
	// maxMessage bounds a message in both directions, in bytes: somewhat more than
	// the largest configuration that the policy accepts by default (4 MiB). Each is
	// held in memory several times over while it is decoded, which a hostile server
	// could make use of.
	maxMessage = 5 << 20
	// authTimeout bounds the authorization of one attempt; token endpoints
	// hang too.
	authTimeout = 15 * time.Second
	// heartbeat is the interval of the protocol (specification, Heartbeats).
	heartbeat = 30 * time.Second
)

// Session is a running client. Its methods are safe for concurrent use, but not
// from inside a callback.
type Session struct {
	client    client.OpAMPClient
	transport *http.Transport // nil for WebSocket
	counters  *Counters
	effective atomic.Pointer[protobufs.EffectiveConfig]
	// fetched is when the client last took effective for a message of its own, in
	// nanoseconds; 0 once the server has answered. Overtaken: it was set anew then.
	fetched   atomic.Int64
	overtaken atomic.Bool
	times     times
	pace      *Pace
	callback  Callbacks

	conn     atomic.Pointer[websocket.Conn] // the latest; nil for HTTP
	attempt  attempt
	work     sync.WaitGroup
	stopping chan struct{}
	mu       sync.Mutex // guards everything in this block below
	stopped  bool

	keepInterval func() // safe for concurrent use
	heard        *heard
	status       atomic.Pointer[protobufs.ConnectionSettingsStatus] // as told last; nil for none
}

// Start starts a session and returns before it is connected; the client tries
// for ever. The caller must Stop it.
func Start(ctx context.Context, set Settings) (*Session, error) {
	if set.Counters == nil {
		set.Counters = &Counters{}
	}
	if set.Pace == nil {
		set.Pace = &Pace{}
	}
	s := &Session{
		counters: set.Counters, times: defaultTimes, pace: set.Pace, callback: set.Callback,
		stopping: make(chan struct{}), heard: newHeard(set.Capabilities),
	}
	if set.times != nil {
		s.times = *set.times
	}
	s.pace.use(set.Endpoint, s.times)
	log := clientLogger{set.Log, s.logged}
	if set.Transport == HTTP {
		c := client.NewHTTP(log)
		c.SetPollingInterval(set.PollingInterval)
		s.client = c
	} else {
		s.client = client.NewWebSocket(log)
	}
	if err := s.setInitial(set); err != nil {
		return nil, fmt.Errorf("preparing the first OpAMP message: %w", err)
	}
	start := types.StartSettings{
		OpAMPServerURL:               set.Endpoint,
		Header:                       set.Header,
		TLSConfig:                    set.TLS,
		InstanceUid:                  types.InstanceUid(set.InstanceUID),
		RemoteConfigStatus:           set.Initial.RemoteConfig.protobuf(),
		LastConnectionSettingsStatus: s.status.Load(),
		MaxMessageSize:               maxMessage,
		// Compression over WebSocket would void the size limit: opamp-go 0.24
		// counts compressed bytes.
		EnableCompression: false,
		Callbacks:         s.callbacks(set),
	}
	interval := set.HeartbeatInterval
	if interval == 0 {
		interval = heartbeat
	}
	if set.Transport == HTTP {
		interval = set.PollingInterval
		s.transport = &http.Transport{
			DialContext:         s.dial,
			TLSClientConfig:     set.TLS,
			TLSHandshakeTimeout: s.times.request,
			ForceAttemptHTTP2:   true,
			// HTTP/2 would go on using a dead connection, request after request.
			HTTP2: &http.HTTP2Config{SendPingTimeout: s.times.request / 2, PingTimeout: s.times.request / 2},
		}
		if err := s.useProxy(s.transport, set); err != nil {
			return nil, fmt.Errorf("preparing the connection to the OpAMP server: %w", err)
		}
		start.TLSConfig = nil // opamp-go would replace the transport
		start.Client = &http.Client{
			Timeout:       s.times.request,
			Transport:     transport{s.transport, s, set},
			CheckRedirect: checkRedirect,
		}
		start.BackoffPolicy = func() types.BackoffPolicy { return pauses{s.pace} }
		// Called once per message, and not under the client's time limit.
		start.HeaderFunc = func(h http.Header) http.Header {
			s.heard.next()
			s.pace.wait(s.stopping)
			return h
		}
	}
	if set.Transport != HTTP {
		interval = spread(interval)
	}
	start.HeartbeatInterval = &interval
	s.keepInterval = func() {}
	if set.Capabilities.Heartbeat { // else the client does not touch it
		s.keepInterval = intervalOf(s.client, interval)
	}
	if set.Transport != HTTP {
		prepare, err := s.dialerFor(set)
		if err != nil {
			return nil, fmt.Errorf("preparing the connection to the OpAMP server: %w", err)
		}
		start.BackoffPolicy = func() types.BackoffPolicy { return noPauses{} }
		start.HeaderFunc = s.headerFunc(set, prepare)
	}
	knowOffer(s.client, set.Initial.Settings)
	if err := s.client.Start(ctx, start); err != nil {
		return nil, fmt.Errorf("starting the OpAMP client for %q: %w", set.Endpoint, err)
	}
	s.work.Go(s.settle)
	return s, nil
}

func (s *Session) setInitial(set Settings) error {
	if err := s.client.SetAgentDescription(set.Initial.Description.protobuf()); err != nil {
		return err
	}
	if set.Capabilities.Health {
		if err := s.client.SetHealth(trimHealth(protobufHealth(set.Initial.Health))); err != nil {
			return err
		}
	}
	if set.Capabilities.AvailableComponents {
		if err := s.client.SetAvailableComponents(set.Initial.Components.protobuf()); err != nil {
			return err
		}
	}
	// Also if there are none: a server may know some of a former process.
	if err := s.client.SetCustomCapabilities(customCapabilities(set.Initial.CustomCapabilities)); err != nil {
		return err
	}
	s.storeEffective(set.Initial.EffectiveConfig)
	if set.RequestInstanceUID {
		s.client.SetFlags(protobufs.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid)
	}
	capabilities := set.Capabilities.protobuf()
	if set.Capabilities.connectionSettings() {
		s.status.Store(set.Initial.Settings.protobuf())
	}
	return s.client.SetCapabilities(&capabilities)
}

func (s *Session) callbacks(set Settings) types.Callbacks {
	return types.Callbacks{
		OnConnect: func(context.Context) {
			if set.Transport == HTTP {
				s.pace.answered()
			} else if err := s.taken(connectionOf(s.client)); err != nil {
				s.lost(err)
				return
			}
			if set.Counters.Connected.Swap(1) == 0 || set.Transport != HTTP {
				set.Counters.Connections.Add(1)
			}
			set.Callback.Connected()
		},
		OnConnectFailed: func(_ context.Context, err error) {
			if set.Transport != HTTP {
				s.dialFailed(err)
			} else if !s.ending() {
				s.pace.fail()
				s.lost(err)
			}
		},
		OnError: func(_ context.Context, err *protobufs.ServerErrorResponse) {
			s.heardError()
			set.Callback.ServerError(err.GetType().String(), err.GetErrorMessage())
			if err.GetType() == protobufs.ServerErrorResponseType_ServerErrorResponseType_Unavailable {
				s.unavailable(err.GetRetryInfo().GetRetryAfterNanoseconds())
			}
		},
		OnMessage: func(ctx context.Context, m *types.MessageData) {
			set.Counters.MessagesReceived.Add(1)
			s.answered(ctx)
			s.heardMessage(m)
			if id := m.AgentIdentification; id != nil {
				set.Callback.Identified([16]byte(id.GetNewInstanceUid())) // the client has checked its length
			}
			if m.RemoteConfig != nil && set.Capabilities.RemoteConfig {
				set.Callback.Offered(offer(m.RemoteConfig))
			}
			if c := m.CustomMessage; c != nil {
				set.Callback.CustomMessage(c.GetCapability(), c.GetType(), c.GetData())
			}
		},
		OnCommand: func(_ context.Context, c *protobufs.ServerToAgentCommand) error {
			if c.GetType() == protobufs.CommandType_CommandType_Restart {
				set.Callback.Restart()
			}
			s.heardCommand()
			return nil
		},
		OnOpampConnectionSettings: func(_ context.Context, c *protobufs.OpAMPConnectionSettings) error {
			s.keepInterval()
			s.heardOpAMP(c)
			return nil // the status is the agent's
		},
		GetEffectiveConfig: func(ctx context.Context) (*protobufs.EffectiveConfig, error) {
			shown := s.effective.Load()
			if ctx.Value(own{}) == nil {
				s.fetched.Store(time.Now().UnixNano())
				if set.onFetch != nil {
					set.onFetch()
				}
			}
			return shown, nil
		},
		CheckRedirect: func(next *http.Request, via []*http.Request, _ []*http.Response) error {
			err := checkRedirect(next, via)
			if err != nil && set.Transport != HTTP {
				s.lost(err) // the client only logs it
			}
			return err
		},
	}
}

// Stop tells the server that the agent leaves, and waits for the client's
// goroutines until ctx ends. The session must not be used afterwards.
func (s *Session) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
	}
	s.mu.Unlock()
	err := s.client.Stop(ctx)
	s.work.Wait() // no longer than controlTimeout
	s.pace.left()
	if err == nil && s.attempt.busy { // the goroutine of the attempt has ended
		s.pace.leaveAlone(0)
	}
	s.counters.Connected.Store(0)
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
	if err != nil {
		return fmt.Errorf("stopping the OpAMP client: %w", err)
	}
	return nil
}

// SetDescription reports who the agent is.
func (s *Session) SetDescription(d Description) error {
	s.report()
	return s.client.SetAgentDescription(d.protobuf())
}

// SetHealth reports health. The protocol wants it only when it changed; the
// caller compares.
func (s *Session) SetHealth(h health.Node) error {
	s.report()
	return s.client.SetHealth(trimHealth(protobufHealth(h)))
}

// report counts a report; over HTTP requests are counted instead.
func (s *Session) report() {
	if s.transport == nil {
		s.counters.MessagesSent.Add(1)
	}
}

// SetRemoteConfigStatus reports the state of an offer.
func (s *Session) SetRemoteConfigStatus(status RemoteConfigStatus) error {
	s.report()
	return s.client.SetRemoteConfigStatus(status.protobuf())
}

// SetEffectiveConfig reports the running configuration. The caller compares
// with what was reported before.
func (s *Session) SetEffectiveConfig(ctx context.Context, yaml []byte) error {
	s.storeEffective(yaml)
	if at := s.fetched.Load(); at != 0 && time.Since(time.Unix(0, at)) < fetchTime {
		s.overtaken.Store(true)
	}
	s.report()
	return s.client.UpdateEffectiveConfig(context.WithValue(ctx, own{}, true))
}

// own marks a call of the session's own, among those of the client for a message that
// it prepares.
type own struct{}

// fetchTime is how long the client may take from fetching the configuration for the
// first message of a connection, or for a full report, to putting it there. What is set
// in between it replaces by what it fetched, and never sends. It takes microseconds,
// unless the machine has other things to do.
const fetchTime = 10 * time.Millisecond

// answered makes up for a configuration that the client may have lost.
func (s *Session) answered(ctx context.Context) {
	s.fetched.Store(0)
	if s.overtaken.Swap(false) {
		_ = s.client.UpdateEffectiveConfig(context.WithValue(ctx, own{}, true)) // it only fails without the capability
	}
}

func (s *Session) storeEffective(yaml []byte) {
	if yaml == nil {
		return
	}
	s.effective.Store(&protobufs.EffectiveConfig{ConfigMap: &protobufs.AgentConfigMap{
		ConfigMap: map[string]*protobufs.AgentConfigObject{"": {Body: trimConfig(yaml), ContentType: "text/yaml"}},
	}})
}

func offer(c *protobufs.AgentRemoteConfig) remoteconfig.Offer {
	var files []remoteconfig.File
	for name, f := range c.GetConfig().GetConfigMap() {
		files = append(files, remoteconfig.File{Name: name, ContentType: f.GetContentType(), Body: f.GetBody()})
	}
	return remoteconfig.NewOffer(c.GetConfigHash(), files)
}

// errRedirect is why a redirect is not followed.
var errRedirect = errors.New("the server redirects to another host or scheme: set the endpoint to the final URL")

// checkRedirect follows redirects only within the same host and scheme:
// opamp-go would keep the new URL for good and send it the credentials.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	if next.URL.Host != first.Host || secure(next.URL) != secure(first) {
		return errRedirect
	}
	// Three is more than any working set-up needs.
	if len(via) > 3 {
		return errors.New("the server redirects more than three times")
	}
	return nil
}

func secure(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "wss" }

// refuse is a header that stops a WebSocket dial which could not be authorized,
// before it opens a connection: the library sets this header itself and takes a
// second one for an error. opamp-go offers no other way.
const refuse = "Sec-Websocket-Key"

// headerFunc returns what the client calls before each attempt over WebSocket: it
// waits until there may be one. It calls prepare first.
func (s *Session) headerFunc(set Settings, prepare func()) func(http.Header) http.Header {
	return func(header http.Header) http.Header {
		prepare()
		if !s.next() {
			header.Set(refuse, "stopped")
			return header
		}
		if set.Authorize == nil {
			return header
		}
		if err := authorize(header, set, http.MethodGet); err != nil {
			s.attempt.told = true
			s.lost(err)
			header.Set(refuse, "not authorized")
		}
		return header
	}
}

// authorize adds credentials to header.
func authorize(header http.Header, set Settings, method string) error {
	extra, err := set.Authorize(Request{Method: method, URL: set.Endpoint, Timeout: authTimeout})
	if err != nil {
		return fmt.Errorf("authorizing the connection to the OpAMP server: %w", err)
	}
	for key, values := range extra {
		header[http.CanonicalHeaderKey(key)] = values
	}
	return nil
}
