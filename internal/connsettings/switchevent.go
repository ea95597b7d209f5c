package connsettings

// SwitchEvent is something that happened. See the types below.
type SwitchEvent interface{ switchEvent() }

// SwitchBooted is the first event of a process. Record is what the folder held.
type SwitchBooted struct{ Record SwitchRecord }

// SwitchOffered means that the server offered settings of the OpAMP connection, which
// were validated and may be used here.
type SwitchOffered struct {
	// Hash is that of the whole offer in hexadecimal.
	Hash string
	// Connection has a key if it has a certificate.
	Connection Connection
}

// Answered means that a server has answered over the connection in use, and not with
// an error. Only the first one of a candidate has effects.
type Answered struct{}

// Refused means that an attempt to connect with what is in use has failed.
type Refused struct {
	// Reason has no secrets: it reaches the server.
	Reason string
	// Certain means that further attempts fail too: the server was not verified, or
	// has refused the credentials or the path (401, 403, 404).
	Certain bool
}

// VerifyTimedOut means that the time of a [StartVerifyTimer] has passed.
type VerifyTimedOut struct{ ID uint64 }

// SwitchPersistFailed means that a [SwitchPersist] marked Must failed. Reason has no
// secrets: it reaches the server.
type SwitchPersistFailed struct{ Reason string }

// Forget means that the local settings are to be used: an operator wants it, or they
// have changed.
type Forget struct{}

func (SwitchBooted) switchEvent()        {}
func (SwitchOffered) switchEvent()       {}
func (Answered) switchEvent()            {}
func (Refused) switchEvent()             {}
func (VerifyTimedOut) switchEvent()      {}
func (SwitchPersistFailed) switchEvent() {}
func (Forget) switchEvent()              {}

// SwitchEffect is something to do. See the types below.
type SwitchEffect interface{ switchEffect() }

// SwitchPersist asks to make the record durable.
type SwitchPersist struct {
	Record SwitchRecord
	// Must means that what follows is unsafe without it.
	Must bool
}

// Connect asks to replace the session by one with [Switch.Use]. If there is none yet,
// there is nothing to do.
type Connect struct{}

// StartVerifyTimer asks for a [VerifyTimedOut] with the same ID after the time that a
// server has to answer over a candidate.
type StartVerifyTimer struct{ ID uint64 }

// SwitchReport asks to tell the server. The zero Status means that nothing is known of
// any offer.
type SwitchReport struct{ Status Status }

func (SwitchPersist) switchEffect()    {}
func (Connect) switchEffect()          {}
func (StartVerifyTimer) switchEffect() {}
func (SwitchReport) switchEffect()     {}
