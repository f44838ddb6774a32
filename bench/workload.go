package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// workload is something done with a root file system. run returns seconds.
type workload struct {
	name string
	run  func(ctx context.Context, root string) (float64, error)
}

// script is a workload of a shell; $0 is the root.
func script(name, text string, args ...string) workload {
	return workload{name, func(ctx context.Context, root string) (float64, error) {
		r, err := command(ctx, "sh", append([]string{"-c", text, root}, args...)...)
		return r.seconds, err
	}}
}

// chrooted is a workload inside the root, with /dev of this machine and a
// writable /tmp in a mount namespace of its own. The root need not be
// writable.
func chrooted(name string, args ...string) workload {
	const enter = `for d in dev tmp proc; do test -d "$0/$d" || exit 1; done
mount --rbind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/tmp" && mount -t proc proc "$0/proc" &&
printf '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n' >"$0/tmp/hello.c" &&
exec chroot "$0" "$@"`
	return workload{name, func(ctx context.Context, root string) (float64, error) {
		r, err := command(ctx, "unshare", append([]string{"--mount", "sh", "-c", enter, root}, args...)...)
		return r.seconds, err
	}}
}

// appWorkloads are programs run inside the root, those of them that are in it.
func appWorkloads(root string) []workload {
	works := []workload{chrooted("sh -c true", "/bin/sh", "-c", "true")}
	if inRoot(root, "usr/bin/python3") != "" {
		code := "import ssl, json"
		if inRoot(root, "usr/lib/python3/dist-packages/numpy") != "" {
			code = "import numpy, ssl, json"
		}
		works = append(works, chrooted("python3: "+code, "/usr/bin/python3", "-c", code))
	}
	if inRoot(root, "usr/bin/gcc") != "" {
		works = append(works, chrooted("gcc hello.c", "/usr/bin/gcc", "-o", "/tmp/hello", "/tmp/hello.c"))
	}
	for _, pattern := range []string{"usr/bin/java", "usr/lib/jvm/*/bin/java"} {
		if java := inRoot(root, pattern); java != "" {
			works = append(works, chrooted("java -version", java, "-version"))
			break
		}
	}
	return works
}

// inRoot returns the first path in root that matches pattern, as seen inside,
// "" if there is none.
func inRoot(root, pattern string) string {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) == 0 {
		return ""
	}
	return strings.TrimPrefix(found[0], filepath.Clean(root))
}

// randomReads is how many random reads one run makes.
const randomReads = 5000

// mountWorkloads returns what Mount measures. What is read is chosen from
// source, the same for all sides.
func mountWorkloads(source string) ([]workload, error) {
	files, err := regularFiles(source)
	if err != nil {
		return nil, err
	}
	largest := files[0]
	for _, f := range files {
		if f.size > largest.size {
			largest = f
		}
	}
	works := []workload{
		script("find -printf %s", `find "$0" -xdev -printf %s >/dev/null`),
		script("tar c", `tar -C "$0" --one-file-system -cf - . | cat >/dev/null`),
		script("grep -r", `grep -rs --devices=skip "no such text anywhere" "$0/usr/lib" "$0/etc"; test $? -le 2`),
		{fmt.Sprintf("%d random reads of 4 KiB", randomReads), randomReader(files, false)},
		{fmt.Sprintf("%d opens with a random read of 4 KiB", randomReads), randomReader(files, true)},
		script(fmt.Sprintf("largest file (%d MB)", largest.size/1e6), `cat "$0/$1" >/dev/null`, largest.path),
	}
	if os.Geteuid() == 0 && installed("unshare") && inRoot(source, "bin/sh") != "" {
		works = append(works, appWorkloads(source)[1:]...)
	}
	return works, nil
}

type regularFile struct {
	path string // relative to the root
	size int64
}

// regularFiles returns the files of a tree in the order of their names.
func regularFiles(root string) ([]regularFile, error) {
	var files []regularFile
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files = append(files, regularFile{rel, info.Size()})
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no files in %s", root)
	}
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return files, nil
}

// randomReader returns a run that reads 4 KiB at places that are spread evenly
// over all bytes, always the same ones. Opening and closing the files counts
// only with opens.
func randomReader(files []regularFile, opens bool) func(context.Context, string) (float64, error) {
	var total int64
	ends := make([]int64, len(files))
	for i, f := range files {
		total += f.size
		ends[i] = total
	}
	type place struct {
		path string
		off  int64
	}
	random := rand.New(rand.NewPCG(1, 2))
	places := make([]place, randomReads)
	for n := range places {
		at := random.Int64N(max(total, 1))
		i := 0
		for lo, hi := 0, len(ends)-1; lo <= hi; {
			mid := (lo + hi) / 2
			if ends[mid] > at {
				i, hi = mid, mid-1
			} else {
				lo = mid + 1
			}
		}
		places[n] = place{files[i].path, at - (ends[i] - files[i].size)}
	}
	return func(ctx context.Context, root string) (float64, error) {
		var took time.Duration
		for _, p := range places {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			d, err := readAt(filepath.Join(root, p.path), p.off&^4095, opens)
			if err != nil {
				return 0, fmt.Errorf("bench: %w", err)
			}
			took += d
		}
		return took.Seconds(), nil
	}
}

// readAt reads 4 KiB of a file and returns how long that took, with opens
// from before the file is opened until it is closed.
func readAt(path string, off int64, opens bool) (took time.Duration, err error) {
	var buf [4096]byte
	began := time.Now()
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	if !opens {
		began = time.Now()
	}
	_, err = f.ReadAt(buf[:], off)
	if !opens {
		took = time.Since(began)
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	if opens {
		took = time.Since(began)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return took, err
}

// readAll has many readers read all files below root together, each file once.
func readAll(ctx context.Context, root string) error {
	files, err := regularFiles(root)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range readers {
		g.Go(func() error {
			buf := make([]byte, 128<<10)
			for n := i; n < len(files) && ctx.Err() == nil; n += readers {
				if err := readFile(filepath.Join(root, files[n].path), buf); err != nil {
					return fmt.Errorf("bench: %w", err)
				}
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

func readFile(path string, buf []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, buf)
	return err
}
