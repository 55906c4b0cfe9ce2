#!/bin/sh
# Builds the interpreter that the packages carry: CPython and OpenSSL from Debian's sources, in a Debian 11 root, so that
# everything runs with glibc 2.30 and later. The result is kept under $CACHE and built again only when this file changes.
set -eu
CACHE=${FLYBALL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flyball}
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
ROOT_SUITE=bullseye
SOURCE_SUITE=trixie
SOURCES="python3.13 openssl"
EPOCH=1735689600 # 2025-01-01: the one time stamp in everything built here

[ "$(id -u)" = 0 ] || { echo "interpreter: the build root needs root (chroot)" >&2; exit 1; }
for tool in mmdebstrap dpkg-source; do
    command -v "$tool" >/dev/null || { echo "interpreter: $tool is missing; run: make system-packages" >&2; exit 1; }
done

key=$(sha256sum "$0" | cut -c1-16)
done_mark="$CACHE/interpreter-$key"
root="$CACHE/root-$ROOT_SUITE"
[ -e "$done_mark/.whole" ] && { echo "$done_mark"; exit 0; }
mkdir -p "$CACHE"

make_root() {
    [ -e "$root/.whole" ] && return
    rm -rf "$root"
    mmdebstrap --quiet --mode=root --variant=minbase \
        --include=build-essential,dpkg-dev,zlib1g-dev,libffi-dev,libsqlite3-dev,pkg-config,xz-utils,perl,patchelf \
        "$ROOT_SUITE" "$root" "$MIRROR" >&2
    touch "$root/.whole"
}

fetch_sources() { # signed by the archive's key: apt checks it
    state="$CACHE/apt"
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$root/build"
    echo "deb-src $MIRROR $SOURCE_SUITE main" > "$state/sources.list"
    set -- -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/nonexistent \
        -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state" -o Dir::Cache::Archives="$state/archives"
    apt-get "$@" update -qq >&2
    # shellcheck disable=SC2086 # a list of words
    (cd "$root/build" && apt-get "$@" -qq source --download-only $SOURCES >&2)
}

build() {
    cat > "$root/build/build.sh" <<BUILD
set -eu
export SOURCE_DATE_EPOCH=$EPOCH LC_ALL=C.UTF-8 TZ=UTC
cd /build
rm -rf openssl python out && mkdir out
dpkg-source -x openssl_*.dsc openssl && dpkg-source -x python3.13_*.dsc python
cd openssl
./Configure linux-x86_64 shared no-tests no-docs no-legacy no-apps --prefix=/opt/flyball --libdir=lib --openssldir=/etc/ssl
make -s -j2 build_sw && make -s install_sw
cd ../python
./configure -q --prefix=/opt/flyball --without-ensurepip --disable-test-modules --with-openssl=/opt/flyball \\
    --with-openssl-rpath=no --without-doc-strings --without-readline \\
    CFLAGS="-O2 -g0 -ffile-prefix-map=/build=. -fno-semantic-interposition" LDFLAGS="-L/opt/flyball/lib"
LD_LIBRARY_PATH=/opt/flyball/lib make -s -j2
LD_LIBRARY_PATH=/opt/flyball/lib make -s install
cp /usr/lib/x86_64-linux-gnu/libffi.so.7 /usr/lib/x86_64-linux-gnu/libsqlite3.so.0 /lib/x86_64-linux-gnu/libz.so.1 /opt/flyball/lib/ 2>/dev/null \\
    || cp -L \$(find /lib /usr/lib -name libffi.so.7) \$(find /lib /usr/lib -name libsqlite3.so.0) \$(find /lib /usr/lib -name libz.so.1) /opt/flyball/lib/
mkdir -p /opt/flyball/licences
cp /build/python/LICENSE /opt/flyball/licences/cpython
cp /build/openssl/LICENSE.txt /opt/flyball/licences/openssl
cp /usr/share/doc/libffi7/copyright /opt/flyball/licences/libffi
cp /usr/share/doc/libsqlite3-0/copyright /opt/flyball/licences/sqlite
cp /usr/share/doc/zlib1g/copyright /opt/flyball/licences/zlib
for name in openssl python3.13; do sed -n "s/^Version: /\$name /p" /build/\${name}_*.dsc; done > /opt/flyball/versions
for name in libffi7 libsqlite3-0 zlib1g; do dpkg-query -W -f '\${Package} \${Version}\\n' \$name; done >> /opt/flyball/versions
BUILD
    rm -rf "$root/opt/flyball"
    mount -t proc proc "$root/proc" 2>/dev/null || true
    nice -n 5 chroot "$root" sh /build/build.sh >"$CACHE/build.log" 2>&1 || { umount "$root/proc" 2>/dev/null; tail -n 30 "$CACHE/build.log" >&2; exit 1; }
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$done_mark"
    cp -a "$root/opt/flyball" "$done_mark"
    touch "$done_mark/.whole"
}

make_root
fetch_sources
build
echo "$done_mark"
