package effectiveconfig

import "maps"

// ReplaceReceivers returns the snapshot as it is after the host exchanged
// receivers in place and handed out no new one. Former and latter are the
// remote configurations that ran before and that run now. Only receivers and
// the receivers of pipelines can differ.
//
// A value that the remote configuration gave is taken from the latter; one
// that a later layer had overridden stays; one that the former gave and the
// latter does not is unknown, since an earlier layer may show through, and is
// masked.
func (s Snapshot) ReplaceReceivers(former, latter map[string]any) Snapshot {
	return Snapshot{
		Effective:  replaceReceivers(s.Effective, s.Unexpanded, former, latter),
		Unexpanded: replaceReceivers(s.Unexpanded, s.Unexpanded, former, latter),
	}
}

func replaceReceivers(shown, written, former, latter map[string]any) map[string]any {
	out := make(map[string]any, len(shown))
	maps.Copy(out, shown)
	out["receivers"] = replaced(shown["receivers"], written["receivers"], former["receivers"], latter["receivers"])
	shownService := service(shown)
	if shownService == nil {
		return out
	}
	newService := make(map[string]any, len(shownService))
	maps.Copy(newService, shownService)
	newService["pipelines"] = replaced(shownService["pipelines"],
		service(written)["pipelines"], service(former)["pipelines"], service(latter)["pipelines"])
	out["service"] = newService
	return out
}

func service(conf map[string]any) map[string]any {
	s, _ := conf["service"].(map[string]any)
	return s
}

// replaced returns one value of the new view; written is the same place in what
// users wrote.
func replaced(shown, written, former, latter any) any {
	latterMap, latterIsMap := latter.(map[string]any)
	formerMap, formerIsMap := former.(map[string]any)
	if !latterIsMap && !formerIsMap {
		switch {
		case same(former, latter):
			return shown
		case former != nil && !same(written, former):
			return shown // a later layer overrides the remote one here
		case latter != nil:
			return latter
		default:
			return Masked
		}
	}
	if latter == nil && formerIsMap && same(written, former) {
		return nil // removed as a whole
	}
	shownMap, _ := shown.(map[string]any)
	writtenMap, _ := written.(map[string]any)
	out := make(map[string]any, len(shownMap)+len(latterMap))
	maps.Copy(out, shownMap)
	for key := range union(formerMap, latterMap) {
		if v := replaced(shownMap[key], writtenMap[key], formerMap[key], latterMap[key]); v != nil {
			out[key] = v
		} else if _, ok := latterMap[key]; ok {
			out[key] = nil
		} else {
			delete(out, key)
		}
	}
	return out
}

func union(a, b map[string]any) map[string]bool {
	keys := make(map[string]bool, len(a)+len(b))
	for key := range a {
		keys[key] = true
	}
	for key := range b {
		keys[key] = true
	}
	return keys
}

func same(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for key := range x {
			if z, ok := y[key]; !ok || !same(x[key], z) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !same(x[i], y[i]) {
				return false
			}
		}
		return true
	default:
		switch b.(type) {
		case map[string]any, []any:
			return false
		}
		return a == b
	}
}
