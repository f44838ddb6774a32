#!/usr/bin/env bash
# Boots a root file system over virtiofs to a shell prompt, twice, in software
# emulation:
#
#   testnet/vm.sh FLISTNODE [ROOT]
#
# ROOT is packed on one node and served to the machine from another, which has
# nothing of it. The kernel and a busybox for the first steps come from Debian
# packages that are unpacked in bin/vm, not installed; so does ROOT, if none is
# given. What the machine lists and reads is compared with ROOT.
set -euo pipefail
flistnode=$(realpath "$1")
cache=$(realpath "$(dirname "$0")/..")/bin/vm
root=${2:-$cache/root}
limit=300 # seconds for the whole boot and the checks

for pair in qemu-system-x86_64:qemu-system-x86 apt-get:apt dpkg-deb:dpkg debootstrap:debootstrap xz:xz-utils; do
  command -v "${pair%%:*}" >/dev/null || { echo "vm: ${pair%%:*} is missing: apt-get install ${pair##*:}" >&2; exit 1; }
done

# Kernel, busybox, root file system: once.
mkdir -p "$cache"
if [ ! -e "$cache/unpacked" ]; then
  kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
  (cd "$cache" && apt-get download -q "$kernel" busybox-static && for deb in ./*.deb; do dpkg-deb -x "$deb" . && rm "$deb"; done)
  touch "$cache/unpacked"
fi
if [ ! -e "$root" ]; then
  debootstrap --variant=minbase "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root.part"
  mv "$root.part" "$root"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/flistnode-vm-XXXXXX")
running=()
cleanup() {
  [ -z "${machine:-}" ] || kill -KILL "$machine" 2>/dev/null || true
  for pid in "${running[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${running[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM # and clean up

# The first steps: modules, mount, on to the root file system.
mkdir "$work/first" && cd "$work/first"
mkdir bin dev proc root
unpacked() { find "$cache"/*/ -path "$root" -prune -o -name "$1" -type f -print | head -n 1; }
busybox=$(unpacked busybox)
cp "$busybox" bin/busybox
modules=()
for name in fuse virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtiofs; do
  file=$(unpacked "$name.ko*")
  case $file in
    "") continue ;; # built in
    *.xz) xz -dc "$file" > "$name.ko" ;;
    *) cp "$file" "$name.ko" ;;
  esac
  modules+=("/$name.ko")
done
cat > init <<END
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t devtmpfs dev /dev
for m in ${modules[*]} ${modules[*]}; do \$b insmod \$m 2>/dev/null; done # twice: in whatever order they need each other
\$b mount -t virtiofs -o ro image /root
\$b mount -t devtmpfs dev /root/dev
\$b mount -t proc proc /root/proc
\$b mount -t tmpfs run /root/run
\$b cp /check /root/run/check
export PS1='flistnode-vm# ' PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec \$b switch_root -c /dev/ttyS0 /root /bin/sh -i
END
# What is read to compare; runs here and there.
cat > check <<'END'
cd "$1" || exit
ls -A | sed 's/^/ls: /'
sed 's/^/os-release: /' etc/os-release
find etc usr/bin usr/sbin -xdev -type f | LC_ALL=C sort | xargs cat | sha256sum | sed 's/^/content: /'
find usr etc -xdev | LC_ALL=C sort | sha256sum | sed 's/^/names: /'
END
chmod 755 init
find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip > ../first.gz
cd "$work"

# Two nodes: one has the image, the other serves it.
"$flistnode" testnet up --nodes 2 --dir "$work/nodes" > nodes.log 2>&1 &
running+=($!)
for _ in $(seq 300); do grep -q 'Ctrl-C' nodes.log && break; sleep 0.1; done
echo "vm: packing $root"
cid=$("$flistnode" --api "$work/nodes/a/sock" pack "$root" 2>pack.log) || { cat pack.log nodes.log >&2; exit 1; }
"$flistnode" --api "$work/nodes/b/sock" serve-virtiofs "$cid" "$work/fs.sock" 2> serve.log &
running+=($!)
for _ in $(seq 300); do [ -S fs.sock ] && break; sleep 0.1; done
sleep 0.2 # the socket is tried once before it is served

echo "vm: booting $cid"
mkfifo keys
start=$(date +%s%N) SECONDS=0
qemu-system-x86_64 -accel tcg -m 512 -display none -monitor none -serial stdio -nic none \
  -object memory-backend-memfd,id=mem,size=512M,share=on -numa node,memdev=mem \
  -chardev socket,id=fs,path="$work/fs.sock" -device vhost-user-fs-pci,chardev=fs,tag=image \
  -kernel "$(unpacked 'vmlinuz-*')" -initrd first.gz -append "console=ttyS0 quiet panic=-1" \
  < keys >> console 2>&1 &
machine=$!
running+=("$machine")
exec 3> keys
since() { echo $((($(date +%s%N) - start) / 1000000)) | sed 's/...$/.&/'; }
await() { # a text on the console
  while ! grep -q "$1" console; do
    kill -0 "$machine" 2>/dev/null && [ "$SECONDS" -lt "$limit" ] || { cat console serve.log; echo "vm: the machine ended or took more than $limit s, without: $1" >&2; exit 1; }
    sleep 0.05
  done
}
await 'flistnode-vm# '
echo "vm: shell prompt after $(since) s"
echo 'sh /run/check /; echo checked-$((6 * 7))' >&3
await 'checked-42'
echo "vm: listed and read after $(since) s"
tr -d '\r' < console | grep -E '^(ls|os-release|content|names): ' > got

# Stop the device and start it again, then end the machine in order.
: > console
echo exit >&3 # of the first process: the kernel panics, and boots again
await 'flistnode-vm# '
echo "vm: shell prompt of the second boot after $(since) s"
kill "$machine"
for _ in $(seq 200); do kill -0 "$machine" 2>/dev/null || break; sleep 0.1; done
if kill -0 "$machine" 2>/dev/null; then
  echo "vm: the machine does not end in order" >&2
  exit 1
fi

sh first/check "$root" > want
grep -E '^(os-release: PRETTY|content|names)' got
if ! diff want got; then
  echo "vm: the machine saw something else than $root" >&2
  exit 1
fi
echo "vm: $(grep -c '^ls: ' got) names in /, /etc/os-release, and the content of /etc and the programs are as in $root"
