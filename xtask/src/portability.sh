# shellcheck shell=bash
# Runs in a mount namespace of its own: what is mounted here is gone when it ends.
#   CHROOT  the chroot           CHECKOUT  the checkout          SYSROOT  the Rust toolchain       REGISTRY  cargo's home
#   TRAP    a package to preinstall from backports, or empty     BUILD    the package to build     RELEASE   its code name
set -euo pipefail

mkdir -p "$CHROOT"/{berth,rust,cargo,build}
mount --bind "$CHECKOUT" "$CHROOT/berth"
mount -o remount,ro,bind "$CHROOT/berth"
mount --bind "$SYSROOT" "$CHROOT/rust"
mount -o remount,ro,bind "$CHROOT/rust"
mount --bind "$REGISTRY" "$CHROOT/cargo"
mount -o remount,ro,bind "$CHROOT/cargo"
mount -t proc proc "$CHROOT/proc"
mount --rbind /dev "$CHROOT/dev"
# Packages must not start their services here.
printf '#!/bin/sh\nexit 101\n' > "$CHROOT/usr/sbin/policy-rc.d"
chmod 755 "$CHROOT/usr/sbin/policy-rc.d"

inside() {
    chroot "$CHROOT" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        CARGO_HOME=/cargo CARGO_TARGET_DIR=/build CARGO_NET_OFFLINE=true CARGO_TERM_COLOR=never "$@"
}

if [ -n "$TRAP" ]; then
    echo "==> the trap: $TRAP from $RELEASE-backports, the suite then taken out of the sources"
    inside bash -euc '
        cp -a /etc/apt /tmp/apt
        sed -n "s/^deb \(\[[^]]*\] \)\?\([^ ]*\) '"$RELEASE"' main.*/deb \1\2 '"$RELEASE"'-backports main/p" /etc/apt/sources.list > /etc/apt/sources.list.d/backports.list
        apt-get -q update
        DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -t '"$RELEASE"'-backports install '"$TRAP"'
        rm -r /etc/apt /var/lib/apt/lists && mv /tmp/apt /etc/apt
        apt-get -q update' > "$CHROOT/trap.log" 2>&1 || { tail -n 20 "$CHROOT/trap.log"; exit 1; }
    inside dpkg-query -W "$TRAP"
fi

echo "==> ./x setup"
inside /berth/x setup
echo "==> ./x setup again"
started=$(date +%s%N)
inside /berth/x setup
echo "    $((($(date +%s%N) - started) / 1000000)) ms"

echo "==> what was installed"
inside pkg-config --modversion libvirt | sed 's/^/    libvirt-dev /'
inside qemu-system-x86_64 --version | head -n 1 | sed 's/^/    /'

echo "==> cargo build -p $BUILD"
started=$(date +%s)
inside cargo build --locked --offline --quiet --manifest-path /berth/Cargo.toml -p "$BUILD"
echo "    $(($(date +%s) - started)) s"
for program in $(inside find /build/debug -maxdepth 1 -type f -perm -100 -name "$BUILD"); do
    echo "==> $program"
    inside ldd "$program" | sed 's/^\t/    /'
    ! inside ldd "$program" | grep -q 'not found' || { echo "a library is missing" >&2; exit 1; }
    inside "$program" --version | sed 's/^/    /'
done
