#!/usr/bin/env bash
# Makes the root folder of the image: `deploy/image-root.sh PROGRAM FOLDER` puts the program, the libraries that it is
# linked with, its user and the folders that it needs into FOLDER. The Dockerfile runs it, and so does CI, for the program
# that the tests have built. Run it as root, who alone may give files to another user.
set -euo pipefail
if [ $# -ne 2 ] || [ ! -f "$1" ]; then
    echo "usage: deploy/image-root.sh PROGRAM FOLDER" >&2
    exit 2
fi
program=$1
root=$2
mkdir -p "$root/usr/local/bin" "$root/etc/jumpgate" "$root/run/jumpgate" "$root/tmp"
strip -o "$root/usr/local/bin/jumpgate" "$program"
ldd "$program" | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} "$root"
echo 'jumpgate:x:65532:65532::/:/nonexistent' >"$root/etc/passwd"
echo 'jumpgate:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chown 65532:65532 "$root/run/jumpgate"
chmod 700 "$root/run/jumpgate"
chmod 1777 "$root/tmp"
