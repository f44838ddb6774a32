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
	// The store's files are mapped: a page fault that waits for the disk keeps
	// one of Go's processors, so there are more of these than cores.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
