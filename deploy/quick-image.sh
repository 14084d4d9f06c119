#!/usr/bin/env bash
# Makes the image of a program that is built already, in seconds and without a base image: `deploy/quick-image.sh PROGRAM TAG`.
# Its contents are made by the same script as the Dockerfile's, and all else is the Dockerfile's last stage. The program must
# have been built for Debian or the like: the libraries are this machine's. Run it as root.
set -euo pipefail
if [ $# -ne 2 ] || [ ! -f "$1" ]; then
    echo "usage: deploy/quick-image.sh PROGRAM TAG" >&2
    exit 2
fi
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/context"
bash "$folder/deploy/image-root.sh" "$1" "$work/root"
# An archive, which keeps whose the files are; a copied folder would be root's.
tar -C "$work/root" -cf "$work/context/image.tar" .
sed -e '/^ARG RUNTIME_IMAGE/p; /^FROM \${RUNTIME_IMAGE}/,$!d' -e 's|^COPY --from=build /image /|ADD image.tar /|' \
    "$folder/Dockerfile" >"$work/context/Dockerfile"
docker build -q -t "$2" "$work/context"
