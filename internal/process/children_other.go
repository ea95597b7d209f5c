//go:build !linux

package process

// EndInheritedChildren does nothing: only Linux tells a process its children.
func EndInheritedChildren() {}
