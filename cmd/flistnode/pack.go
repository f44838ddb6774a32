package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

// packFlags are what "pack" can be told.
type packFlags struct {
	out         string
	noDigests   bool
	withData    bool
	annotations []string
	api.PackRequest
}

func newPack(a *app) *cobra.Command {
	var p packFlags
	cmd := &cobra.Command{
		Use:   "pack DIR",
		Short: "Pack a directory into an flist and print its CID",
		Long: `Pack the directory tree at DIR: cut its content into chunks, keep them in the
store, announce them, and print the CID of the flist on stdout, alone on a line.
Everything else goes to stderr.

The same tree gives the same CID, on any machine. Times are part of a tree: with
--reproducible, times after SOURCE_DATE_EPOCH (seconds since 1970, from the
environment; 0 if unset) are set to it and birth times left out, so that two
checkouts of one source agree. The FILE of -o is never part of the tree.

A file that cannot be read, or goes away meanwhile, is named and makes pack fail
(exit code 1) with no flist made; with --ignore-unreadable it is named and left
out.

With --json: one document with "cid" and the counts.`,
		Example: `  flistnode pack ./rootfs
  flistnode pack / --one-file-system --exclude proc --exclude 'var/cache/*'
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) flistnode pack --reproducible ./src
  flistnode pack ./rootfs -o rootfs.flist --annotation os=debian`,
		Args: wantArgs(1, 1),
		PreRunE: func(*cobra.Command, []string) error {
			return p.check(os.LookupEnv)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("make path %s absolute: %w", quote(args[0]), err)
			}
			p.Dir = dir
			return a.withNode(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.pack(ctx, c, &p)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&p.out, "output", "o", "", "also write the metadata to `FILE`, by custom FILE.flist")
	f.BoolVar(&p.noDigests, "no-digests", false, "with -o: leave out the SHA-256 of each file, which mounting does not need")
	f.BoolVar(&p.withData, "with-data", false, "with -o: put the content into the file as well")
	f.StringVar(&p.Name, "name", "", "`NAME` to list the flist by; not part of the CID")
	f.StringArrayVar(&p.Exclude, "exclude", nil, "leave out what matches `PATTERN`, relative to DIR; may be repeated")
	f.BoolVar(&p.OneFileSystem, "one-file-system", false, "do not cross into other file systems")
	f.BoolVar(&p.Reproducible, "reproducible", false, "clamp times to SOURCE_DATE_EPOCH, leave out birth times")
	f.BoolVar(&p.IgnoreUnreadable, "ignore-unreadable", false, "leave out what cannot be read, instead of failing")
	f.StringArrayVar(&p.annotations, "annotation", nil, "`KEY=VALUE` to put into the flist; part of the CID; may be repeated")
	f.IntVar(&p.Workers, "workers", 0, "`NUMBER` of files read at once; 0 for what suits the cores")
	return cmd
}

// check fills the request from the flags and the environment.
func (p *packFlags) check(getenv func(string) (string, bool)) error {
	if p.out == "" && (p.noDigests || p.withData) {
		return usagef("--no-digests and --with-data are about the file -o writes: give -o FILE")
	}
	if p.Workers < 0 {
		return usagef("--workers %d: want 0 or more", p.Workers)
	}
	for _, kv := range p.annotations {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return usagef("--annotation %s: want KEY=VALUE", quote(kv))
		}
		if p.Annotations == nil {
			p.Annotations = make(map[string]string)
		}
		if _, twice := p.Annotations[key]; twice {
			return usagef("--annotation %s is given twice", quote(key))
		}
		p.Annotations[key] = value
	}
	if !p.Reproducible {
		return nil
	}
	var epoch int64
	if v, ok := getenv("SOURCE_DATE_EPOCH"); ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return usagef("environment variable SOURCE_DATE_EPOCH: %q: want seconds since 1970", v)
		}
		epoch = n
	}
	p.SourceDateEpoch = &epoch
	return nil
}

func (a *app) pack(ctx context.Context, c *api.Client, p *packFlags) (err error) {
	var out *newFile
	if p.out != "" {
		// Before the work, so that a wrong name does not cost it.
		if out, err = createFile(p.out); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.discard()) }()
		p.Exclude = append(p.Exclude, within(p.Dir, out.Name(), p.out)...)
	}
	m := a.meter("packing")
	res, err := c.Pack(ctx, p.PackRequest, func(at api.PackProgress) {
		m.update(at.Bytes, 0, count(at.Files)+" files")
	})
	m.done()
	if err != nil {
		a.problems("cannot be read", api.ProblemsOf(err))
		return err
	}
	a.problems("left out", res.Unreadable)
	if out != nil {
		if err := c.Export(ctx, res.CID, !p.noDigests, p.withData, out); err != nil {
			return fmt.Errorf("write %s: %w", quote(p.out), err)
		}
		if err := out.keep(); err != nil {
			return err
		}
	}
	return a.printPacked(res)
}

// within returns patterns that exclude those of files that are in dir, and
// nothing else. The file the flist is written to is not part of the tree.
func within(dir string, files ...string) []string {
	var patterns []string
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil // pack tells
	}
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			continue
		}
		parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			continue
		}
		rel, err := filepath.Rel(top, filepath.Join(parent, filepath.Base(abs)))
		if err == nil && filepath.IsLocal(rel) {
			patterns = append(patterns, "/"+patternMeta.Replace(rel))
		}
	}
	return patterns
}

// patternMeta makes a name a pattern that only it matches.
var patternMeta = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func (a *app) printPacked(res api.PackResult) error {
	if a.json {
		return a.printJSON(res)
	}
	if a.verbose > 0 {
		fmt.Fprintf(a.stderr, "%s entries, %s in %s chunks (%s new, %s), metadata %s, %s\n",
			count(res.Entries), size(res.Bytes), count(res.Chunks), count(res.NewChunks), size(res.NewBytes),
			size(res.MetadataBytes), seconds(res.Seconds))
	}
	_, err := fmt.Fprintln(a.stdout, res.CID)
	return err
}

// problems lists what went wrong with single entries, on stderr.
func (a *app) problems(what string, list []api.Problem) {
	for _, p := range list {
		fmt.Fprintf(a.stderr, "flistnode: %s: %s: %s\n", what, quote(p.Path), oneLine(p.Error))
	}
}
