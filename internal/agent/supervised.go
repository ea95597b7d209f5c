package agent

import (
	"errors"
	"fmt"
	"strings"
)

// errSupervised is why an agent has no state folder and accepts no remote
// configuration although it could.
var errSupervised = errors.New("the extension has a `ppid`: the process with that ID decides which configuration runs")

// Supervised reports whether the local layers among the arguments of a process
// say that another process supervises it: the extension of the agent called name
// has a `ppid`. A value that is a reference is not known, and does not count
// before the extension starts.
func Supervised(name string, args []string) bool {
	supervised := false
	for _, uri := range configURIs(args) {
		// Looking costs less than parsing: most layers have no such key.
		if text, ok := layerText(uri); !ok || !strings.Contains(text, "ppid") {
			continue
		}
		layer, _ := localLayer(uri)
		extensions, _ := layer["extensions"].(map[string]any)
		block, _ := extensions[ownID(name)].(map[string]any)
		if ppid, ok := block["ppid"]; ok { // the last layer with the key wins
			supervised = ppid != nil && fmt.Sprint(ppid) != "0" && !strings.Contains(fmt.Sprint(ppid), "${")
		}
	}
	return supervised
}
