package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The bounds the project has set itself for the metadata of the root file
// system the bounds were measured on (44,559 entries), in bytes an entry.
const (
	mountBytesPerEntry  = 1.2e6 / 44559
	digestBytesPerEntry = 2.4e6 / 44559
	packMemoryMB        = 256
)

// Image measures packing a root file system and the size of its flist.
func Image(ctx context.Context, opts Options) (t Table, err error) {
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	im := image{opts: opts, dir: dir}

	opts.Progress("reading " + opts.Root + " once, so that all begin with a warm page cache")
	listing, err := command(ctx, "sh", "-c", `tar -C "$0" --sort=name -cf - . | wc -c`, opts.Root)
	if err != nil {
		return t, err
	}
	packs, err := im.race(ctx, map[string]step{
		"flistnode": im.pack,
		"tar":       im.shell(`tar -C "$0" -cf - . | zstd -q -3 -T0 > "$1/tar.zst"`),
	})
	if err != nil {
		return t, err
	}
	t.Title = "packing " + opts.Root
	t.Notes = fmt.Sprintf("tar of it: %s bytes; %d runs of each side in turn, medians", listing.stdout, opts.Runs)
	t.add("pack", median(packs["flistnode"]), "s", "tar | zstd -3 -T0", median(packs["tar"]))
	t.add("pack, anonymous memory", im.peak, "MB", "the bound", packMemoryMB)
	if err := im.otherPackers(ctx, &t, median(packs["flistnode"])); err != nil {
		return t, err
	}
	if err := im.sizes(ctx, &t); err != nil {
		return t, err
	}
	unpacks, err := im.race(ctx, map[string]step{
		"flistnode": im.unpack,
		"tar":       im.shell(`rm -rf "$1/tar.d" && mkdir "$1/tar.d" && zstd -dcq "$1/tar.zst" | tar -C "$1/tar.d" -xpf - --xattrs`),
	})
	if err != nil {
		return t, err
	}
	t.add("unpack from the local store", median(unpacks["flistnode"]), "s", "zstd -d | tar x", median(unpacks["tar"]))
	return t, nil
}

// image is the state of one Image benchmark.
type image struct {
	opts Options
	dir  string
	cid  string
	peak float64 // MB
}

// step runs one side once and returns its seconds.
type step func(ctx context.Context) (float64, error)

// race runs all sides in turn, after one round that is not counted.
func (im *image) race(ctx context.Context, sides map[string]step) (map[string][]float64, error) {
	seconds := map[string][]float64{}
	for round := range im.opts.Runs + 1 {
		for name, run := range sides {
			im.opts.Progress(fmt.Sprintf("round %d of %d: %s", round, im.opts.Runs, name))
			s, err := run(ctx)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				seconds[name] = append(seconds[name], s)
			}
		}
	}
	return seconds, nil
}

// shell returns a step that runs a script with the root as $0 and the work
// directory as $1.
func (im *image) shell(script string) step {
	return func(ctx context.Context) (float64, error) {
		r, err := command(ctx, "sh", "-c", script, im.opts.Root, im.dir)
		return r.seconds, err
	}
}

func (im *image) store() string { return filepath.Join(im.dir, "store") }

// pack packs into an empty store each time.
func (im *image) pack(ctx context.Context) (float64, error) {
	if err := os.RemoveAll(im.store()); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	r, err := command(ctx, im.opts.Binary, "--data", im.store(), "--no-mdns", "pack", im.opts.Root)
	im.cid, im.peak = r.stdout, max(im.peak, r.anonPeak)
	return r.seconds, err
}

func (im *image) unpack(ctx context.Context) (float64, error) {
	target := filepath.Join(im.dir, "unpacked")
	if err := os.RemoveAll(target); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	r, err := command(ctx, im.opts.Binary, "--data", im.store(), "--no-mdns", "unpack", im.cid, target)
	return r.seconds, err
}

// otherPackers adds the packers that are installed, one run each.
func (im *image) otherPackers(ctx context.Context, t *Table, ours float64) error {
	for _, p := range []struct {
		program, name   string
		prepare, script string // what is not timed, and what is
		slow            bool
	}{
		{"mkfs.erofs", "mkfs.erofs -zlz4", ``, `mkfs.erofs -zlz4 "$1/erofs" "$0"`, false},
		{"casync", "casync make", ``, `casync make --store="$1/castr" "$1/x.caidx" "$0"`, false},
		{"desync", "desync tar", `mkdir "$1/desync"`, `desync tar -i -s "$1/desync" "$1/x.caidx" "$0"`, false},
		{"ipfs", "ipfs add, without what is named as device nodes are", ipfsPrepare, ipfsAdd, false},
		{"mksquashfs", "mksquashfs -comp zstd", ``, `mksquashfs "$0" "$1/squash" -comp zstd -quiet -no-progress`, true},
	} {
		if !installed(p.program) || p.slow && !im.opts.Slow {
			continue
		}
		im.opts.Progress("once: " + p.name)
		s, err := im.once(ctx, p.prepare, p.script)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			t.Notes += "; " + p.name + " failed: " + brief(err)
			continue
		}
		t.add("pack", ours, "s", p.name, s)
	}
	return nil
}

// once runs a script and then another, which alone is timed, both bounded in
// time.
func (im *image) once(ctx context.Context, prepare, script string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, otherLimit)
	defer cancel()
	if _, err := im.shell(prepare)(ctx); err != nil {
		return 0, err
	}
	return im.shell(script)(ctx)
}

// ipfs makes a repository of its own, and leaves out what it would refuse; its
// rules look at names alone.
const (
	ipfsPrepare = `IPFS_PATH="$1/ipfs" ipfs init --profile=test
find "$0" ! -type f ! -type d ! -type l -printf "%f\n" > "$1/ignore"`
	ipfsAdd = `IPFS_PATH="$1/ipfs" IPFS_TELEMETRY=off ipfs add --offline --recursive --hidden --ignore-rules-path="$1/ignore" \
--quieter --progress=false "$0"`
)

// sizes adds what the .flist files weigh.
func (im *image) sizes(ctx context.Context, t *Table) error {
	im.opts.Progress("weighing the metadata")
	fileSize := func(args ...string) (float64, error) {
		path := filepath.Join(im.dir, "x.flist")
		args = append([]string{"--data", im.store(), "--no-mdns", "pack", im.opts.Root, "-o", path}, args...)
		if _, err := command(ctx, im.opts.Binary, args...); err != nil {
			return 0, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return 0, fmt.Errorf("bench: %w", err)
		}
		return float64(info.Size()), os.Remove(path)
	}
	mount, err := fileSize("--no-digests")
	if err != nil {
		return err
	}
	digests, err := fileSize()
	if err != nil {
		return err
	}
	list, err := command(ctx, "sh", "-c",
		`find "$0" -printf '%P\0%y%m %U %G %s %T@ %l\n' | zstd -q -19 | wc -c; find "$0" -printf x | wc -c; du -sb "$0" | cut -f1`, im.opts.Root)
	if err != nil {
		return err
	}
	var figures [3]float64 // compressed listing, entries, content, in bytes
	for i, word := range strings.Fields(list.stdout) {
		if figures[i], err = strconv.ParseFloat(word, 64); err != nil {
			return fmt.Errorf("bench: %q is no number: %w", word, err)
		}
	}
	listing, entries, content := figures[0], figures[1], figures[2]
	const mb = 1e6
	t.add(".flist for a mount", mount/mb, "MB", fmt.Sprintf("the bound for %.0f entries", entries), entries*mountBytesPerEntry/mb)
	t.add(".flist for a mount", mount/mb, "MB", "bare listing, zstd -19", listing/mb)
	t.add(".flist for a mount", mount/mb, "MB", "the content", content/mb)
	t.add(".flist with digests", digests/mb, "MB", fmt.Sprintf("the bound for %.0f entries", entries), entries*digestBytesPerEntry/mb)
	return nil
}
