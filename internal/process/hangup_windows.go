package process

// IgnoreHangup does nothing: Windows has no SIGHUP.
func IgnoreHangup() {}
