package opampextension

import "os"

// The tests must not find, or fill, the state folder of this machine.
func init() { _ = os.Setenv("OTELCOL_OPAMP_STATE_DIR", os.DevNull+"/none") }
