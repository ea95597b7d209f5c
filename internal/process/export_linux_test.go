package process

// ChildCount returns the number of children.
func ChildCount() int { return len(children()) }
