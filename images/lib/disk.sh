# shellcheck shell=bash
# Functions shared by the recipes: a BIOS-bootable disk image made from files alone, without root, mounts or loop devices.
# Sourced by build.sh; expects `set -eu`.

# first_existing FILE...: the first that is there; distributions put the boot code in different places.
first_existing() {
    local file
    for file in "$@"; do
        [ ! -e "$file" ] || { echo "$file"; return; }
    done
    echo "none of these exist: $*" >&2
    return 1
}

# disk_create RAW MIB: an empty disk.
disk_create() {
    rm -f "$1"
    truncate -s "${2}M" "$1"
}

# disk_partitions RAW: reads sfdisk lines from standard input; keeps boot code.
disk_partitions() {
    sfdisk --quiet --no-reread --no-tell-kernel "$1"
}

# ext_partition RAW OFFSET_MIB SIZE_MIB TYPE LABEL DIR [mke2fs option...]: a file system made from DIR, put at the offset.
# The features switched off are those that newer mke2fs switches on and GRUB of Debian 12 cannot read; an older mke2fs that does
# not know a feature has it off anyhow.
ext_partition() {
    local raw=$1 offset=$2 size=$3 type=$4 label=$5 dir=$6
    shift 6
    local part="$raw.part" off="" feature
    for feature in metadata_csum_seed orphan_file; do
        rm -f "$part"
        truncate -s 8M "$part"
        ! mke2fs -q -F -t "$type" -O "^$feature" "$part" 2>/dev/null || off="$off,^$feature"
    done
    rm -f "$part"
    truncate -s "${size}M" "$part"
    mke2fs -q -F -t "$type" -L "$label" -m 0 ${off:+-O "${off#,}"} "$@" -d "$dir" "$part"
    dd if="$part" of="$raw" bs=1M seek="$offset" conv=notrunc,sparse status=none
    rm -f "$part"
}

# syslinux_partition RAW OFFSET_MIB SIZE_MIB FILE...: a FAT file system with SYSLINUX and the files; syslinux.cfg is one of them.
# SYSLINUX loads a kernel under emulation ten times as fast as GRUB does (0.3 s instead of 3.6 s), but reads FAT only here.
syslinux_partition() {
    local raw=$1 offset=$2 size=$3
    shift 3
    local fat="$raw@@${offset}M"
    dd if="$(first_existing /usr/lib/syslinux/mbr/mbr.bin /usr/lib/SYSLINUX/mbr.bin)" of="$raw" bs=440 count=1 conv=notrunc status=none
    MTOOLS_SKIP_CHECK=1 mformat -i "$fat" -T $((size * 2048)) -h 16 -s 63 -H $((offset * 2048)) -c 16 -N 62657274 -v BOOT ::
    MTOOLS_SKIP_CHECK=1 mcopy -m -i "$fat" "$@" ::
    syslinux --install --offset $((offset * 1024 * 1024)) "$raw"
}

# grub_install RAW CONFIG: GRUB in the gap before the first partition, with the configuration inside it.
# boot.img looks for the core image at sector 1 unless told otherwise, so plain dd does what grub-bios-setup would do.
grub_install() {
    local raw=$1 config=$2 core="$1.core"
    grub-mkimage -O i386-pc -o "$core" -p '(hd0,msdos1)/boot/grub' -c "$config" biosdisk part_msdos ext2 linux
    [ "$(stat -c %s "$core")" -le $((1023 * 1024)) ] || { echo "GRUB's core image does not fit before the first partition" >&2; return 1; }
    dd if=/usr/lib/grub/i386-pc/boot.img of="$raw" bs=440 count=1 conv=notrunc status=none
    dd if="$core" of="$raw" bs=512 seek=1 conv=notrunc status=none
    rm -f "$core"
}
