package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/node/api"
)

// flistCID returns the CID that a FLIST argument names: the argument itself if
// it is a CID, else that of the .flist file, whose metadata it gives to the
// node. What kind of CID it is, the node looks at.
func flistCID(ctx context.Context, c *api.Client, arg string) (string, error) {
	if _, err := cid.Decode(arg); err == nil {
		return arg, nil
	}
	f, err := os.Open(arg)
	if errors.Is(err, fs.ErrNotExist) {
		return "", withHint(fmt.Errorf("%s is neither a CID nor a file: %w", quote(arg), fs.ErrNotExist),
			"\"flistnode flists\" lists what this node holds.")
	}
	if err != nil {
		return "", fmt.Errorf("open .flist file: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return "", withHint(usagef("%s is a directory, not a .flist file", quote(arg)),
			"\"flistnode pack DIR\" makes an flist of it.")
	}
	got, err := c.Import(ctx, f)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", quote(arg), err)
	}
	return got, nil
}

// withFList is withNode for commands on one flist.
func (a *app) withFList(ctx context.Context, arg string, do func(ctx context.Context, c *api.Client, flist string) error) error {
	return a.withNode(ctx, func(ctx context.Context, c *api.Client) error {
		flist, err := flistCID(ctx, c, arg)
		if err != nil {
			return err
		}
		return do(ctx, c, flist)
	})
}

// imagePath returns the path argument of a command, the root of the image if
// there is none.
func imagePath(args []string) string {
	if len(args) < 2 {
		return "/"
	}
	return args[1]
}
