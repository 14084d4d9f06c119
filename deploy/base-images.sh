#!/usr/bin/env bash
# Makes a stand-in for the Dockerfile's builder image (the other base is `scratch`, which every engine has), for machines that
# reach no registry of images: a minimal Debian (debootstrap) with a C compiler, this machine's Rust toolchain and its
# certificates, imported as jumpgate-builder:local. It needs root and debootstrap, takes a minute or three, and does nothing
# if the image is there. DEBIAN_MIRROR names another mirror. Its last line says how to build with it.
set -euo pipefail
if [ $# -gt 0 ]; then
    echo "usage: deploy/base-images.sh" >&2
    exit 2
fi
tag=jumpgate-builder:local
if docker image inspect "$tag" >/dev/null 2>&1; then
    echo "$tag is there"
    echo "docker build --network host --build-arg BUILDER_IMAGE=$tag -t jumpgate ."
    exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=gcc,libc6-dev,binutils,ca-certificates bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$root.log" 2>&1 \
    || { tail -n 20 "$root.log"; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/locale
toolchain=$(rustc --print sysroot)
mkdir -p "$root/usr/local/rust"
cp -a "$toolchain/bin" "$toolchain/lib" "$root/usr/local/rust/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
tar -C "$root" -c . | docker import \
    --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' - "$tag"
echo "docker build --network host --build-arg BUILDER_IMAGE=$tag -t jumpgate ."
