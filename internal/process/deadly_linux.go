package process

import (
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

// arriveTime is how long a signal that interrupted a thread before makeDeadly may
// take until Go's runtime knows of it: some instructions, unless the machine has
// something else to do at that very moment.
const arriveTime = time.Millisecond

// makeDeadly makes the kernel end the process at every SIGTERM and SIGINT from
// now on. Those that came before reach the ones who listen for them before it
// returns. [signal.Reset] is not enough: a signal on its way to Go's handler may
// be lost with the thread that handles it when the process is replaced.
//
// For the first process of a container the kernel drops signals with the default
// action. There the action stays Go's, which ends a process at a signal that
// nobody listens for, with exit code 2, until the kernel takes the action away in
// execve. From there until Go's runtime sets it in the successor nothing helps:
// what waits because it is blocked is dropped too, since the runtime unblocks both
// signals before it sets the action.
func makeDeadly() {
	if os.Getpid() == 1 {
		arrived := make(chan os.Signal, 1)
		signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT)
		signal.Stop(arrived) // waits until what has arrived is handed on
		signal.Reset(syscall.SIGTERM, syscall.SIGINT)
		return
	}
	// All zeros are the default action with no flag, in whatever order the
	// fields are; eight words are more than any Linux has in a sigaction, and
	// signal sets have eight bytes.
	var zeros [8]uint64
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&zeros)), 0, 8, 0, 0) //nolint:gosec // the only way to this system call
		if errno != 0 {
			signal.Reset(s) // an architecture with other sets
		}
	}
	time.Sleep(arriveTime)
	signal.Stop(arrived) // waits until what has arrived is handed on
}
