package mount_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

func TestUnusableMountPoints(t *testing.T) {
	needFUSE(t)
	tmp := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(tmp+"/full", 0o700))
	must(os.WriteFile(tmp+"/full/file", nil, 0o600))
	must(os.MkdirAll(tmp+"/data/inside", 0o700))
	must(os.Mkdir(tmp+"/empty", 0o700))
	must(os.Symlink("data/inside", tmp+"/link"))
	for name, c := range map[string]struct {
		opts mount.Options
		want error
		say  string
	}{
		"empty":                        {mount.Options{Dir: tmp + "/empty"}, nil, ""},
		"no name":                      {mount.Options{}, nil, "no mount point given"},
		"does not exist":               {mount.Options{Dir: tmp + "/none"}, fs.ErrNotExist, "does not exist: create it"},
		"nor does its parent":          {mount.Options{Dir: tmp + "/none/none"}, fs.ErrNotExist, "mount point"},
		"a file":                       {mount.Options{Dir: tmp + "/full/file"}, unix.ENOTDIR, "not a directory"},
		"not empty":                    {mount.Options{Dir: tmp + "/full"}, unix.ENOTEMPTY, "--nonempty"},
		"not empty, as wanted":         {mount.Options{Dir: tmp + "/full", NonEmpty: true}, nil, ""},
		"in the data directory":        {mount.Options{Dir: tmp + "/data/inside", DataDir: tmp + "/data"}, unix.EINVAL, "inside the data directory"},
		"there through a symlink":      {mount.Options{Dir: tmp + "/link", DataDir: tmp + "/data"}, unix.EINVAL, "inside the data directory"},
		"the data directory":           {mount.Options{Dir: tmp + "/data", DataDir: tmp + "/data", NonEmpty: true}, unix.EINVAL, "inside the data directory"},
		"above the data directory":     {mount.Options{Dir: tmp, DataDir: tmp + "/data", NonEmpty: true}, unix.EINVAL, "hide the data directory"},
		"beside the data directory":    {mount.Options{Dir: tmp + "/empty", DataDir: tmp + "/emp"}, nil, ""},
		"data directory not yet there": {mount.Options{Dir: tmp + "/empty", DataDir: tmp + "/later"}, nil, ""},
	} {
		err := mount.Check(c.opts.Dir, c.opts)
		switch {
		case c.say == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say) || c.want != nil && !errors.Is(err, c.want)):
			t.Errorf("%s: %v; want %v, %q", name, err, c.want, c.say)
		}
	}
}

func TestSecondMountIsRefused(t *testing.T) {
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	r := start(t, im, m)
	_, err := mount.New(im, m, mount.Options{Dir: r.dir, NonEmpty: true})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "flistnode:"+im.CID().String()+" is already mounted") {
		t.Errorf("New = %v", err)
	}
}

// serve is the process that TestStaleMountIsClearedAway kills.
func serve(dir string) {
	m := newMemory()
	b, err := flist.NewBuilder(m, flist.BuilderOptions{})
	if err != nil {
		panic(err)
	}
	if err := b.Root(flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755}}); err != nil {
		panic(err)
	}
	for _, ok := b.NextDir(); ok; _, ok = b.NextDir() {
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, _, err := b.Finish(ctx)
	if err != nil {
		panic(err)
	}
	im, err := flist.Load(ctx, m, c)
	if err != nil {
		panic(err)
	}
	mnt, err := mount.New(im, m, mount.Options{
		Dir: dir, ReadWrite: os.Getenv(serveWritable) != "", Private: os.Getenv(serveWritable),
	})
	if err != nil {
		panic(err)
	}
	go func() {
		<-mnt.Ready()
		fmt.Println("ready")
	}()
	fmt.Println("ended:", mnt.Run(ctx))
	os.Exit(0)
}

// startAndKill kills a process that mounts as soon as it has.
func startAndKill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if line != "ready\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
}

func TestStaleMountIsClearedAway(t *testing.T) {
	needFUSE(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a mount point")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveThenDie+"="+dir)
	startAndKill(t, cmd)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != unix.ENOTCONN {
		t.Fatalf("statfs of the stale mount: %v, want ENOTCONN", err)
	}
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	r := start(t, im, m, func(o *mount.Options) { o.Dir = dir })
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || len(got) != len(a.content()) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
}
