package connsettings_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

// TestSwitch runs the stories in testdata/switch. Each command is an event, and its
// output are the effects. "go test -rewrite" writes the outputs anew; only commit them
// if you understand what changed and want it.
func TestSwitch(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/switch", func(t *testing.T, path string) {
		t.Helper()
		env := &env{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return env.command(t, d)
		})
	})
}

type env struct {
	s    *connsettings.Switch
	disk connsettings.SwitchRecord
	// timer is the latest, earlier the one before it.
	timer, earlier uint64
	diskFull       bool
	out            strings.Builder
}

// connection makes one of the arguments endpoint and token.
func connection(endpoint, token string) connsettings.Connection {
	var c connsettings.Connection
	if endpoint != "" {
		c.Endpoint = "wss://" + endpoint
	}
	if token != "" {
		c.Headers = http.Header{"Authorization": {token}}
	}
	return c
}

func show(c *connsettings.Connection) string {
	if c == nil {
		return "local"
	}
	text := strings.TrimPrefix(c.Endpoint, "wss://")
	if text == "" {
		text = "local"
	}
	if token := c.Headers.Get("Authorization"); token != "" {
		text += "(" + token + ")"
	}
	return text
}

func (e *env) command(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	e.out.Reset()
	arg := func(key string) string {
		var v string
		d.MaybeScanArgs(t, key, &v)
		return v
	}
	word := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	switch d.Cmd {
	case "boot": // boot [valid=a]: under hash "a"
		e.disk = connsettings.SwitchRecord{}
		if a := arg("valid"); a != "" {
			c := connection(a, "")
			e.disk.Valid, e.disk.ValidHash = &c, a
			e.disk.Status = connsettings.Status{Hash: a, State: connsettings.StatusApplied}
		}
		e.boot()
	case "crash": // the process dies and the next one boots from the disk
		e.boot()
	case "offer": // offer hash [endpoint=…] [token=…]
		e.step(connsettings.SwitchOffered{Hash: word(0), Connection: connection(arg("endpoint"), arg("token"))})
	case "answered":
		e.step(connsettings.Answered{})
	case "refused": // refused [certain], the reason as input
		e.step(connsettings.Refused{Reason: strings.TrimSpace(d.Input), Certain: d.HasArg("certain")})
	case "timeout": // timeout [late]: of the candidate before
		id := e.timer
		if d.HasArg("late") {
			id = e.earlier
		}
		e.step(connsettings.VerifyTimedOut{ID: id})
	case "disk": // disk full, disk ok
		e.diskFull = word(0) == "full"
	case "forget":
		e.step(connsettings.Forget{})
	case "status": // what the next session states at first
		status := e.s.Record().Status
		fmt.Fprintf(&e.out, "%q %s\n", status.State, status.Hash)
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	if e.s != nil && e.out.Len() > 0 {
		fmt.Fprintf(&e.out, "using %s\n", show(e.s.Use()))
	}
	if e.out.Len() == 0 {
		return "ok\n"
	}
	return e.out.String()
}

func (e *env) boot() {
	e.s = connsettings.NewSwitch()
	e.timer, e.earlier = 0, 0
	e.step(connsettings.SwitchBooted{Record: e.disk})
	if e.out.Len() == 0 {
		fmt.Fprintln(&e.out, "booted")
	}
}

func (e *env) step(event connsettings.SwitchEvent) {
	for _, effect := range e.s.Step(event) {
		switch f := effect.(type) {
		case connsettings.SwitchPersist:
			mark := ""
			if f.Must {
				mark = "!"
			}
			if e.diskFull {
				fmt.Fprintf(&e.out, "persist%s fails\n", mark)
				if f.Must {
					e.step(connsettings.SwitchPersistFailed{Reason: "no space left on device"})
					return
				}
				continue
			}
			e.disk = f.Record
			fmt.Fprintf(&e.out, "persist%s valid=%s", mark, show(f.Record.Valid))
			if c := f.Record.Candidate; c != nil {
				fmt.Fprintf(&e.out, " candidate=%s", show(c))
			}
			if f.Record.Boots > 0 {
				fmt.Fprintf(&e.out, " boots=%d", f.Record.Boots)
			}
			fmt.Fprintln(&e.out)
		case connsettings.Connect:
			fmt.Fprintf(&e.out, "connect with %s\n", show(e.s.Use()))
		case connsettings.StartVerifyTimer:
			e.earlier, e.timer = e.timer, f.ID
			fmt.Fprintln(&e.out, "start timer")
		case connsettings.SwitchReport:
			if f.Status == (connsettings.Status{}) {
				fmt.Fprintln(&e.out, "report that nothing is known")
				continue
			}
			fmt.Fprintf(&e.out, "report %s %s", f.Status.State, f.Status.Hash)
			if f.Status.Message != "" {
				fmt.Fprintf(&e.out, " %q", f.Status.Message)
			}
			fmt.Fprintln(&e.out)
		}
	}
}
