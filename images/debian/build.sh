#!/bin/bash
# Makes the `debian` disk: mmdebstrap, a few files of our own, ext4 made from the folder, GRUB in front.
#   RECIPE   this folder              LIB    the folder with disk.sh     SOURCES  the archive's sources.list
#   INSTALL  packages, with commas    WORK   scratch space               RELEASE  Debian's code name
#   OUT      the qcow2 file to write
set -euo pipefail
. "$LIB/disk.sh"
export PATH="$PATH:/usr/sbin:/sbin"

if [ "${1:-}" = partition ]; then
    # Called back by mmdebstrap, where the files' owners are seen as the guest will see them. $2 is the root of the guest.
    root=$2
    cp -R "$RECIPE/overlay/." "$root/"
    chroot "$root" update-initramfs -u
    cat > "$root/etc/apt/sources.list" <<LIST
deb http://deb.debian.org/debian $RELEASE main
deb http://deb.debian.org/debian $RELEASE-updates main
deb http://deb.debian.org/debian-security $RELEASE-security main
LIST
    echo localhost > "$root/etc/hostname"
    : > "$root/etc/machine-id"
    rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id"
    ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
    [ -e "$root/vmlinuz" ] && [ -e "$root/initrd.img" ] || { echo "the kernel package left no /vmlinuz or /initrd.img" >&2; exit 1; }
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log "$root"/var/log/apt
    mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
    # mmdebstrap has /proc, /sys and devices mounted in there; a bind mount shows the guest's own files only.
    mkdir "$WORK/bare"
    mount --bind "$root" "$WORK/bare"
    trap 'umount "$WORK/bare"' EXIT
    ext_partition "$WORK/disk.raw" 1 "$SIZE_MIB" ext4 debian-root "$WORK/bare"
    exit 0
fi

disk_mib=3072
export SIZE_MIB=$((disk_mib - 2)) RECIPE WORK LIB RELEASE
raw=$WORK/disk.raw
disk_create "$raw" $disk_mib
disk_partitions "$raw" <<TABLE
label: dos
start=1MiB, size=${SIZE_MIB}MiB, type=83, bootable
TABLE
cat > "$WORK/grub.cfg" <<'CONFIG'
set root=(hd0,msdos1)
linux /vmlinuz root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 quiet no_timer_check
initrd /initrd.img
boot
CONFIG
grub_install "$raw" "$WORK/grub.cfg"

echo "installing Debian $RELEASE"
# Without root, mmdebstrap works in a user namespace, and there writes the disk as another user.
[ "$(id -u)" = 0 ] || chmod -R a+rwX "$WORK"
mmdebstrap --variant=apt --format=null --include="$INSTALL" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="bash '$RECIPE/build.sh' partition \"\$1\"" \
    "$RELEASE" /dev/null "$SOURCES" >&2
echo "converting the disk"
qemu-img convert -q -f raw -O qcow2 -o compat=1.1 "$raw" "$OUT"
