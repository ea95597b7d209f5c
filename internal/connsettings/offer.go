package connsettings

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
)

// Validate returns everything that is wrong with an offer, as one error that names
// the parts; it shows no secret.
func (o Offer) Validate() error {
	var texts []string
	if len(o.Hash) == 0 {
		texts = append(texts, "the offer has no hash: without one its status cannot be told")
	}
	add := func(err error) {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if o.OpAMP != nil {
		add(o.OpAMP.Validate(OpAMP))
	}
	for _, signal := range slices.Sorted(maps.Keys(o.Own)) {
		if !signal.known() {
			texts = append(texts, "there is no own telemetry of an offered kind: there are "+signalNames())
			continue
		}
		add(o.Own[signal].Validate(string(signal)))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Others)) {
		if !opampuri.ValidName(name) {
			texts = append(texts, othersPrefix+": "+opampuri.NameRule)
			continue
		}
		add(o.Others[name].Validate(othersPrefix + "/" + name))
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// Over returns what o and an offer before it, which nothing was made of yet, ask for
// together: what o leaves out is as in former, of a single connection too. It has the
// hash of o. The result shares its parts with both; none may be modified.
func (o Offer) Over(former Offer) Offer {
	switch {
	case o.OpAMP == nil:
		o.OpAMP = former.OpAMP
	case former.OpAMP != nil:
		merged := o.OpAMP.Over(*former.OpAMP)
		o.OpAMP = &merged
	}
	if o.Own == nil {
		o.Own = former.Own
	} else if former.Own != nil {
		own := maps.Clone(former.Own)
		for signal, c := range o.Own {
			if before := former.Own[signal]; c.Endpoint != "" && before.Endpoint != "" { // else one is withdrawn
				c = c.Over(before)
			}
			own[signal] = c
		}
		o.Own = own
	}
	if o.Others == nil {
		o.Others = former.Others
	} else {
		others := make(map[string]Connection, len(o.Others)) // names that are not in it are withdrawn
		for name, c := range o.Others {
			others[name] = c.Over(former.Others[name])
		}
		o.Others = others
	}
	return o
}

var signals = []Signal{Metrics, Traces, Logs}

func (s Signal) known() bool { return slices.Contains(signals, s) }

func signalNames() string {
	names := make([]string, 0, len(signals))
	for _, s := range signals {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}
