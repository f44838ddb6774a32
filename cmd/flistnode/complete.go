package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

// completeFList completes a FLIST argument at the given places (0 is the first
// argument): the CIDs the daemon holds, with their names, and .flist files.
// Without a daemon there are only files; a node is never started for it.
func (a *app) completeFList(places int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= places {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var found []cobra.Completion
		for _, p := range a.heldFLists() {
			if strings.HasPrefix(p.CID, prefix) {
				found = append(found, cobra.CompletionWithDesc(p.CID, p.How+" "+quote(p.Name)))
			}
		}
		return found, cobra.ShellCompDirectiveDefault
	}
}

// heldFLists asks the daemon, for a short time. A shell has no use for an
// error, so there is none.
func (a *app) heldFLists() []api.PinInfo {
	if a.settings.resolve(os.LookupEnv) != nil {
		return nil
	}
	c, err := api.Dial(a.settings.node.API)
	if err != nil {
		return nil
	}
	defer func() { _ = c.Close() }() // a client that has asked has nothing left to lose
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	pins, err := c.FLists(ctx)
	if err != nil {
		return nil
	}
	return pins
}
