package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newVerify(a *app) *cobra.Command {
	var digests bool
	cmd := &cobra.Command{
		Use:   "verify [FLIST]",
		Short: "Read and check the chunks held here",
		Long: `Read the chunks of FLIST that are on this node, or all chunks of the store if no
FLIST is given, and check each against its name. With --digests, the content of
every file of FLIST is put together and checked against its SHA-256 as well.
No data is fetched.

Missing and damaged chunks are listed on stdout. The exit code is 0 if nothing is
missing or damaged, else 6.

With --json: one document with the counts and lists; lists are cut at 1000.`,
		Example: `  flistnode verify
  flistnode verify --digests CID`,
		Args:              wantArgs(0, 1),
		ValidArgsFunction: a.completeFList(1),
		PreRunE: func(_ *cobra.Command, args []string) error {
			if digests && len(args) == 0 {
				return usagef("--digests checks the files of one FLIST: name it")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.withNode(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					return a.verify(ctx, c, api.VerifyRequest{})
				})
			}
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				return a.verify(ctx, c, api.VerifyRequest{FList: flist, Digests: digests})
			})
		},
	}
	cmd.Flags().BoolVar(&digests, "digests", false, "also check the SHA-256 of each file")
	return cmd
}

func (a *app) verify(ctx context.Context, c *api.Client, req api.VerifyRequest) error {
	m := a.meter("verifying")
	res, err := c.Verify(ctx, req, func(at api.VerifyProgress) {
		m.update(at.Bytes, 0, fmt.Sprintf("%s of %s chunks", count(at.Chunks), count(at.TotalChunks)))
	})
	m.done()
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(res)
	} else {
		err = a.printVerify(res)
	}
	if err == nil && !res.OK() {
		return errDifferent
	}
	return err
}

// missingShown bounds the list for people: what was never fetched can be much.
const missingShown = 10

func (a *app) printVerify(res api.VerifyResult) error {
	for _, id := range res.MissingChunks[:min(len(res.MissingChunks), missingShown)] {
		fmt.Fprintf(a.stdout, "missing %s\n", id)
	}
	if more := int(res.Missing) - missingShown; more > 0 {
		fmt.Fprintf(a.stdout, "missing %s more; --json lists them\n", count(more))
	}
	for _, p := range res.CorruptChunks {
		fmt.Fprintf(a.stdout, "corrupt %s: %s\n", quote(p.Path), oneLine(p.Error))
	}
	for _, p := range res.WrongDigests {
		fmt.Fprintf(a.stdout, "wrong content %s: %s\n", quote(p.Path), oneLine(p.Error))
	}
	files := ""
	if res.Files > 0 {
		files = fmt.Sprintf("; %s files, %s wrong", count(res.Files), count(res.WrongFiles))
	}
	_, err := fmt.Fprintf(a.stdout, "%s chunks checked, %s, in %s: %s missing, %s corrupt%s\n",
		count(res.Checked), size(res.Bytes), seconds(res.Seconds), count(res.Missing), count(res.Corrupt), files)
	return err
}
