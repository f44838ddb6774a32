package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/flistnode/flistnode/node"
	"github.com/flistnode/flistnode/node/api"
)

// withNode calls do with a client of the daemon, if one answers on the control
// socket, else of a node of its own that lives as long as do runs.
func (a *app) withNode(ctx context.Context, do func(context.Context, *api.Client) error) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	if c != nil {
		return do(ctx, c)
	}
	return a.ownNode(ctx, do)
}

// withDaemon is withNode for commands that make no sense without a daemon.
func (a *app) withDaemon(ctx context.Context, do func(context.Context, *api.Client) error) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	if c == nil {
		return withHint(fmt.Errorf("no daemon answers on %s", quote(a.settings.node.API)),
			"Start one with \"flistnode daemon\", or give its socket with --api.")
	}
	return do(ctx, c)
}

// dial returns a client of the daemon, or nil if none listens on the socket.
func (a *app) dial(ctx context.Context) (*api.Client, error) {
	c, err := api.Dial(ctx, a.settings.node.API)
	if errors.Is(err, api.ErrNoDaemon) {
		a.log.Debug("no daemon, using a node of this process", "socket", a.settings.node.API)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if given := a.settings.givenToNode(); len(given) > 0 {
		fmt.Fprintf(a.stderr, "flistnode: a daemon answers on %s and has settings of its own: no effect of --%s\n",
			quote(a.settings.node.API), strings.Join(given, ", --"))
	}
	return c, nil
}
