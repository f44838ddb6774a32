// Command flistnode packs, finds, fetches, mounts and unpacks flists.
//
// Its part is the command line: it reads flags, the environment and the
// configuration file, calls a node through node/api, and prints. It knows
// nothing of stores, networks or file systems. There is one file a command.
//
// A command talks to the daemon if one answers on the control socket, else to
// a node inside its own process, through the same client.
package main

import (
	"os"
	"runtime"
)

func main() {
	// One more than there are cores: Go lets a goroutine that computes go on for
	// 10 ms, and the kernel finds time for a reader's request sooner.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
