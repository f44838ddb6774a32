package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newStat(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stat FLIST PATH",
		Short: "Show everything an flist says about one path",
		Long: `Show type, mode, owner, size, links, times, device number, symlink target, extended
attributes and SHA-256 of PATH in FLIST. Only metadata is fetched.

With --json: one document, as a line of "flistnode ls --json", with "xattrs" and
"sha256". Values of extended attributes are base64.`,
		Example:           `  flistnode stat CID /usr/bin/ping`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				return a.stat(ctx, c, flist, args[1])
			})
		},
	}
}

func (a *app) stat(ctx context.Context, c *api.Client, flist, path string) error {
	e, err := c.Stat(ctx, flist, path)
	if err != nil {
		return fmt.Errorf("stat %s in %s: %w", quote(path), flist, err)
	}
	if a.json {
		return a.printJSON(e)
	}
	t := a.table()
	t.row("path", quote(e.Path))
	t.row("type", e.Type)
	t.row("mode", fmt.Sprintf("%04o (%s)", e.Mode, modeString(e)))
	t.row("owner", fmt.Sprintf("%d:%d", e.UID, e.GID))
	switch e.Type {
	case api.TypeChar, api.TypeBlock:
		t.row("device", sizeOrDevice(e))
	default:
		t.row("size", fmt.Sprintf("%d (%s)", e.Size, size(e.Size)))
	}
	if e.Type == api.TypeSymlink {
		t.row("target", quote(e.Target))
	}
	t.row("links", e.Nlink)
	t.row("inode", e.Inode)
	t.row("modified", exactTime(e.Mtime))
	if e.Btime != nil {
		t.row("born", exactTime(*e.Btime))
	}
	if e.Digest != "" {
		t.row("sha256", e.Digest)
	}
	for _, x := range e.Xattrs {
		t.row("xattr "+quote(x.Name), quote(string(x.Value)))
	}
	return t.flush()
}

// exactTime shows an image's time in UTC, to the nanosecond.
func exactTime(t api.Time) string { return t.Time().Format(time.RFC3339Nano) }
