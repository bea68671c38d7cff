#!/bin/bash
# Makes the `tiny` disk out of unpacked Debian packages.
#   RECIPE   this folder                LIB   the folder with disk.sh
#   PACKAGES the folder with *.deb      WORK  scratch space
#   OUT      the qcow2 file to write
set -euo pipefail
. "$LIB/disk.sh"
export PATH="$PATH:/usr/sbin:/sbin"

mkdir -p "$WORK/unpacked" "$WORK/root" "$WORK/boot" "$WORK/data"
for deb in "$PACKAGES"/*.deb; do dpkg-deb -x "$deb" "$WORK/unpacked"; done
busybox=$(find "$WORK/unpacked" -path '*bin/busybox' -type f)
kernel=$(find "$WORK/unpacked/boot" -name 'vmlinuz-*')
version=${kernel##*/vmlinuz-}

# --- root: busybox, our scripts, and the few modules that are not built into the cloud kernel
root=$WORK/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,run,tmp,data,mnt,root,etc,lib}
chmod 1777 "$root/tmp"; chmod 700 "$root/root"
cp "$busybox" "$root/bin/busybox"
cp -R "$RECIPE/rootfs/." "$root/"
chmod 755 "$root/init" "$root/etc/rc" "$root/etc/acpi/PWRF/00000080" "$root/usr/share/udhcpc/default.script"
chmod 600 "$root/etc/shadow"
for applet in $("$busybox" --list); do
    [ -e "$root/bin/$applet" ] || [ "$applet" = busybox ] || ln -s /bin/busybox "$root/bin/$applet"
done
ln -s ../bin/busybox "$root/sbin/init"

modules="virtio_pci virtio_blk virtio_scsi sd_mod sr_mod ata_piix ata_generic
    virtio_net virtio_console virtio-rng virtio_balloon button evdev
    isofs vfat nls_cp437 nls_iso8859-1 nls_ascii nls_utf8"
source_modules=$(find "$WORK/unpacked" -type d -path "*lib/modules/$version")
target_modules=$root/lib/modules/$version
mkdir -p "$target_modules"
cp "$source_modules"/modules.{builtin,order} "$target_modules/"
mkdir -p "$WORK/depmod/lib/modules"
ln -sfn "$source_modules" "$WORK/depmod/lib/modules/$version"
# The whole tree's dependencies first, to find the closure of what is wanted; then the small tree's own.
(cd "$source_modules" && "$busybox" depmod -b "$WORK/depmod" "$version")
closure=$(for module in $modules; do
    awk -v want="$module" -F: '{ file = $1; sub(/.*\//, "", file); sub(/\.ko.*/, "", file)
        if (file == want) { print $1; n = split($2, deps, " "); for (i = 1; i <= n; i++) print deps[i] } }' "$source_modules/modules.dep"
done | sort -u)
for module in $closure; do
    mkdir -p "$target_modules/$(dirname "$module")"
    cp "$source_modules/$module" "$target_modules/$module"
done
for module in $modules; do
    find "$target_modules" -name "$module.ko*" | grep -q . || { echo "the kernel package has no module $module" >&2; exit 1; }
done
(cd "$target_modules" && "$busybox" depmod -b "$root" "$version")
echo "$modules" | xargs -n1 > "$root/etc/modules"

find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --null --quiet -o -H newc -R 0:0 --reproducible | gzip -n -9) > "$WORK/boot/initramfs"

# --- disk: [MBR][boot, FAT with SYSLINUX][data, ext4]
cp "$kernel" "$WORK/boot/vmlinuz"
cat > "$WORK/boot/syslinux.cfg" <<'CONFIG'
DEFAULT tiny
PROMPT 0
LABEL tiny
LINUX vmlinuz
INITRD initramfs
APPEND console=ttyS0,115200 quiet loglevel=4 no_timer_check mitigations=off panic=10
CONFIG
boot_mib=28 data_mib=16
raw=$WORK/disk.raw
find "$WORK/boot" "$WORK/data" -exec touch -h -d @0 {} +
disk_create "$raw" $((1 + boot_mib + data_mib))
disk_partitions "$raw" <<TABLE
label: dos
label-id: 0x62657274
start=1MiB, size=${boot_mib}MiB, type=e, bootable
start=$((1 + boot_mib))MiB, size=${data_mib}MiB, type=83
TABLE
syslinux_partition "$raw" 1 $boot_mib "$WORK"/boot/*
ext_partition "$raw" $((1 + boot_mib)) $data_mib ext4 tiny-data "$WORK/data" -E root_owner=0:0
qemu-img convert -q -f raw -O qcow2 -o compat=1.1 "$raw" "$OUT"
