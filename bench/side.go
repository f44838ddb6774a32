package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// side is a file system with the same content as the others.
type side struct {
	name    string
	root    string
	renew   func(context.Context) error // forgets what a daemon holds in memory; nil if there is none
	unmount func(context.Context) error // nil if there is nothing to unmount
}

const dropCaches = "/proc/sys/vm/drop_caches"

func canDropCaches() bool { return unix.Access(dropCaches, unix.W_OK) == nil }

// cool empties the caches of the side and of the kernel.
func (s side) cool(ctx context.Context) error {
	if s.renew != nil {
		if err := s.renew(ctx); err != nil {
			return err
		}
	}
	if !canDropCaches() {
		return nil
	}
	return emptyPageCache()
}

// emptyPageCache empties the kernel's caches of pages, names and inodes.
func emptyPageCache() error {
	unix.Sync()
	if err := os.WriteFile(dropCaches, []byte("3"), 0); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// evenMemory lets a side begin with the same memory as the others, right before
// it runs: a file of so many bytes in dir is filled through a mapping and
// removed. A virtual machine's host takes back pages that are free for some
// seconds, in pieces of 2 MiB, and the first touch of such a page costs many
// times what later ones do. Through a mapping, since the kernel takes large
// pieces for it; small writes get other memory, and leave those as they are.
func evenMemory(dir string, bytes int64) (err error) {
	f, err := os.CreateTemp(dir, "even-memory-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil { // a full disk is an error here, and SIGBUS later
		return fmt.Errorf("bench: make room for %d bytes in %s: %w", bytes, dir, err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("bench: map %d bytes of %s: %w", bytes, f.Name(), err)
	}
	for i := 0; i < len(mapped); i += os.Getpagesize() {
		mapped[i] = 1
	}
	if err := unix.Munmap(mapped); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// fsNames are the magic numbers of statfs(2) that a source usually has.
var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "XFS", unix.BTRFS_SUPER_MAGIC: "Btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
}

func fsName(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		if name, ok := fsNames[st.Type]; ok {
			return name
		}
	}
	return "its own file system"
}

// imageSides makes and mounts the images whose programs are installed.
// squashfs takes minutes to make, so it wants Options.Slow, or an image that
// is there from an earlier run.
func imageSides(ctx context.Context, opts Options, dir string) (sides []side, err error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, k := range []struct {
		name, program, file, script string
		slow                        bool
	}{
		{"EROFS", "mkfs.erofs", "erofs", `mkfs.erofs --quiet "$1" "$0"`, false},
		{"squashfs zstd", "mksquashfs", "squash", `mksquashfs "$0" "$1" -comp zstd -quiet -no-progress`, true},
	} {
		image := filepath.Join(dir, k.file)
		_, err := os.Stat(image)
		switch {
		case err == nil:
		case !installed(k.program) || k.slow && !opts.Slow:
			continue
		default:
			opts.Progress("making an image: " + k.name)
			if _, err := command(ctx, "sh", "-c", k.script, opts.Root, image+".part"); err != nil {
				return sides, err
			}
			if err := os.Rename(image+".part", image); err != nil {
				return sides, fmt.Errorf("bench: %w", err)
			}
		}
		s, err := loopMount(ctx, k.name, image)
		if err != nil {
			opts.Progress("left out: " + err.Error())
			continue
		}
		sides = append(sides, s)
	}
	return sides, nil
}

// loopMount mounts an image beside its file.
func loopMount(ctx context.Context, name, image string) (side, error) {
	target := image + ".mount"
	if err := os.MkdirAll(target, 0o700); err != nil {
		return side{}, fmt.Errorf("bench: %w", err)
	}
	if _, err := command(ctx, "mount", "-o", "loop,ro", image, target); err != nil {
		return side{}, errors.Join(err, os.Remove(target))
	}
	return side{name: name, root: target, unmount: func(ctx context.Context) error {
		_, err := command(ctx, "umount", target)
		return errors.Join(err, os.Remove(target))
	}}, nil
}
