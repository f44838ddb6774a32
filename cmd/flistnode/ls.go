package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

// lsFlags are what "ls" can be told.
type lsFlags struct {
	long, recursive, digest, null, self bool
}

func newLs(a *app) *cobra.Command {
	var l lsFlags
	cmd := &cobra.Command{
		Use:   "ls FLIST [PATH]",
		Short: "List a directory of an flist",
		Long: `List what is in the directory PATH of FLIST (its root, if there is no PATH), sorted
by bytes. With -R, all that is below, each with its path. Symlinks are not
followed. Only metadata is fetched.

A name that is not plain printable text is shown in double quotes with escapes
(\n, \x1b, \xff). -0 prints names as they are, each ended by a zero byte.

With --json: one line per entry, with "path", "type", "mode" (a number), "uid",
"gid", "size", "mtime" and so on. A path that is not UTF-8 is also there as
base64, in "path_bytes".`,
		Example: `  flistnode ls CID
  flistnode ls -l CID etc
  flistnode ls -R0 CID | sort -z | xargs -0 -n1 echo`,
		Args:              wantArgs(1, 2),
		ValidArgsFunction: a.completeFList(1),
		PreRunE: func(*cobra.Command, []string) error {
			if l.null && (a.json || l.long || l.digest) {
				return usagef("-0 prints names only: it goes with none of --json, -l, --digest")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				return a.ls(ctx, c, flist, imagePath(args), l)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&l.long, "long", "l", false, "show mode, links, owner, size and time (in UTC)")
	f.BoolVarP(&l.recursive, "recursive", "R", false, "list all that is below PATH")
	f.BoolVarP(&l.self, "directory", "d", false, "list PATH itself, not what is in it")
	f.BoolVar(&l.digest, "digest", false, "show the SHA-256 of each file; fetches that part of the metadata")
	f.BoolVarP(&l.null, "null", "0", false, "end each name with a zero byte, and quote nothing")
	return cmd
}

func (a *app) ls(ctx context.Context, c *api.Client, flist, path string, l lsFlags) error {
	human := func(w io.Writer, e api.Entry) error {
		name := baseName(e.Path)
		if l.recursive || l.self {
			name = e.Path
		}
		if l.null {
			_, err := io.WriteString(w, name+"\x00")
			return err
		}
		if l.digest {
			if _, err := fmt.Fprintf(w, "%-64s  ", e.Digest); err != nil {
				return err
			}
		}
		if !l.long {
			_, err := fmt.Fprintln(w, quote(name))
			return err
		}
		_, err := fmt.Fprintf(w, "%s %3d %5d %5d %12s %s %s\n", modeString(e), e.Nlink, e.UID, e.GID, sizeOrDevice(e),
			e.Mtime.Time().Format("2006-01-02 15:04:05"), nameAndTarget(name, e))
		return err
	}
	opts := api.ListOptions{Recursive: l.recursive, Digests: l.digest, Self: l.self}
	err := lines(a, human, func(print func(api.Entry) error) error {
		return c.List(ctx, flist, path, opts, print)
	})
	if err != nil {
		return fmt.Errorf("list %s in %s: %w", quote(path), flist, err)
	}
	return nil
}
