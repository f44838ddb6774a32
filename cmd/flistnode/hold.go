package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/mount/hold"
)

// holdCommand is the name of a command that only a daemon starts.
const holdCommand = "hold"

func newHold() *cobra.Command {
	return &cobra.Command{
		Use:    holdCommand,
		Short:  "Keep mounts while no daemon runs",
		Hidden: true,
		Long: `Keep the connections of a daemon's mounts to the kernel, so that the next daemon
can serve them on when this one is killed. A daemon starts it at its first mount,
with a listening socket as descriptor 3. It ends when it has nothing to keep, or
when no daemon has come for two minutes.`,
		Example: `  flistnode hold 3<SOCKET`,
		Args:    wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			signal.Ignore(syscall.SIGUSR2) // it is meant for the daemon
			return hold.Serve(os.NewFile(3, "socket"), hold.Patience)
		},
	}
}
