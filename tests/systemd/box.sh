#!/usr/bin/env bash
# A machine to throw away: a real systemd as PID 1 in namespaces of its own, on an overlay of this machine's root file system. What
# happens inside stays inside and is gone afterwards, but for what is written to /out.
#
#   box.sh PAYLOAD OUT [SECONDS]
#
# PAYLOAD/files/ is laid over the root file system; PAYLOAD/test.sh is run as root by a service, with the payload at /payload and
# OUT at /out. What the test says is in OUT/test.log, what systemd says in OUT/console.log. Gives the test's exit status; 124 when
# there is none after SECONDS, 77 when this system does not allow the namespaces. Needs root. LOWER=DIR takes another root file
# system, such as one made by debootstrap.
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
payload=$(readlink -f "$1") out=$(readlink -f "$2") seconds=${3:-120}

# The three stages: outside; in a mount namespace, to get into a control group of our own; inside of all namespaces.
outside() {
  : >"$out/console.log"
  : >"$out/test.log"
  rm -f "$out/status"
  unshare --mount --pid --fork true 2>/dev/null || { echo "box: namespaces are not allowed here" >&2; exit 77; }
  STAGE=group unshare --mount "$self" "$payload" "$out" "$seconds" || true
  [ -f "$out/status" ] || { echo "box: no result after $seconds s" >&2; exit 124; }
  exit "$(cat "$out/status")"
}

group() {
  mount --make-rprivate /
  # A place for the group's hierarchy that is seen by nobody else.
  scratch=$(mktemp -d)
  mount -t cgroup2 cgroup2 "$scratch"
  group=$scratch/webhookd-box-$$
  mkdir "$group"
  (
    echo $BASHPID >"$group/cgroup.procs"
    STAGE=inside exec timeout --kill-after=5 "$seconds" unshare --mount --cgroup --pid --fork --uts --ipc --net --kill-child \
      "$self" "$payload" "$out" "$seconds"
  ) || true
  sleep 0.2
  find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  umount -l "$scratch"
  rmdir "$scratch"
}

inside() {
  mount --make-rprivate /
  scratch=$(mktemp -d)
  mount -t tmpfs -o mode=755 tmpfs "$scratch"
  mkdir "$scratch"/{upper,work,root}
  root=$scratch/root
  mount -t overlay overlay -o "lowerdir=${LOWER:-/},upperdir=$scratch/upper,workdir=$scratch/work" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  devices
  ip link set lo up
  # Nothing of what this machine starts, and no state of a webhookd that it may have.
  rm -rf "$root"/etc/systemd/system/*.wants "$root"/var/lib/webhookd "$root"/var/lib/private/webhookd
  mkdir -p "$root/payload" "$root/out"
  mount --bind "$payload" "$root/payload"
  mount --bind "$out" "$root/out"
  [ ! -d "$payload/files" ] || cp -a "$payload/files/." "$root/"
  : >"$root/etc/machine-id"
  : >"$root/dev/console"
  mount --bind "$out/console.log" "$root/dev/console"
  units
  cd "$root"
  mkdir -p tmp/old
  # PrivateUsers= needs a real root, which chroot does not give.
  pivot_root . tmp/old
  cd /
  umount -l /tmp/old
  # Otherwise the folder of credentials stays empty.
  mount --make-rshared /
  init=/lib/systemd/systemd
  exec env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "$init" --system --unit=box.target --log-target=console --show-status=no
}

devices() {
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  local device
  for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs tmpfs "$root/dev/shm"
}

units() {
  cat >"$root/etc/systemd/system/box-test.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
Environment=SYSTEMD_PAGER= LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
StandardOutput=file:/out/test.log
StandardError=inherit
ExecStart=/bin/bash -c '/bin/bash /payload/test.sh; echo $? >/out/status'
ExecStopPost=/bin/systemctl exit --no-block
UNIT
  printf '[Unit]\nRequires=box-test.service\n' >"$root/etc/systemd/system/box.target"
}

"${STAGE:-outside}"
