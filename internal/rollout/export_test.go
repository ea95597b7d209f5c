package rollout

// Transitions returns the legal changes of state.
func Transitions() map[State][]State { return transitions }
