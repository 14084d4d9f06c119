#!/usr/bin/env bash
# One large file through a real node, by HTTP and by FTP, and what each took of memory; then the clients that people have.
#
#     bash tests/files.sh [MEBIBYTES] [JUMPGATE]
#
# 64 MiB without an argument; the node holds the file twice, so give it no more than a quarter of the machine's memory. JUMPGATE is the
# program (target/release/jumpgate, or target/debug/jumpgate).
#
#   curl -T, curl              the file comes back as it went in
#   memory                     the peak of the node's resident memory, less the file and what the node takes without it
#   curl -r, -z                a part of it
#   curl ftp://                the same file out, and in again under another name, and what that took of memory
#   curl, python, lftp         files and folders over FTP; those that are installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mebibytes=${1:-64}
program=${2:-}
# What all that is under way may take: chunks on their way, the allocator's slack, sockets.
overhead_kib_max=$((96 * 1024))
work=$(mktemp -d)
node=""

say() { printf '%s\n' "$*"; }
fail() {
    say "files: $*" >&2
    tail -n 20 "$work/node.err" >&2 || true
    exit 1
}
clean_up() {
    local status=$?
    [ -n "$node" ] && kill -9 "$node" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ -z "$program" ]; then
    for candidate in target/release/jumpgate target/debug/jumpgate; do
        [ -x "$candidate" ] && program=$candidate && break
    done
fi
[ -x "$program" ] || fail "there is no program; build it, or name it"

# A port below which enough others are free is found by trying.
for _ in $(seq 20); do
    port=$((20000 + RANDOM % 20000))
    "$program" dev --nodes 1 --port "$port" --ftp --print-config >"$work/cluster.toml"
    JUMPGATE_LIMITS_MEMORY=$((mebibytes * 3 + 256))MiB "$program" serve --config "$work/cluster.toml" --node n1 \
        >"$work/node.out" 2>"$work/node.err" &
    node=$!
    for _ in $(seq 200); do
        curl -fs "http://127.0.0.1:$((port + 1))/readyz" >/dev/null 2>&1 && break 2
        kill -0 "$node" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$node" 2>/dev/null || true
    node=""
done
[ -n "$node" ] || fail "no node starts"
http=http://127.0.0.1:$((port + 1))/v1/files
ftp=ftp://127.0.0.1:$((port + 21))

memory_kib() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$node/status"; }
same() { cmp -s "$work/file" "$1" || fail "$2 gave other bytes"; }

head -c "$((mebibytes << 20))" /dev/urandom >"$work/file"
before=$(memory_kib VmRSS)
curl -fsS -T "$work/file" "$http/large.bin"
peak=$(memory_kib VmHWM)
written=$((peak - before - mebibytes * 1024))
curl -fsS "$http/large.bin" -o "$work/back"
same "$work/back" "curl"
peak=$(memory_kib VmHWM)
read=$((peak - before - mebibytes * 1024))
say "$mebibytes MiB by HTTP: beyond the file, $((written / 1024)) MiB while it was written, $((read / 1024)) MiB in all"
[ "$read" -le "$overhead_kib_max" ] || fail "that is more than $((overhead_kib_max / 1024)) MiB"

curl -fsS -r 1000-1999 "$http/large.bin" -o "$work/part"
cmp -s <(tail -c +1001 "$work/file" | head -c 1000) "$work/part" || fail "a range gave other bytes"
curl -fsS -r 1000000- "$http/large.bin" -o "$work/part"
cmp -s <(tail -c +1000001 "$work/file") "$work/part" || fail "the rest gave other bytes"

curl -fsS "$ftp/large.bin" -o "$work/back"
same "$work/back" "curl over FTP"
curl -fsS -T "$work/file" "$ftp/second.bin"
beyond=$(($(memory_kib VmHWM) - before - 2 * mebibytes * 1024))
say "the same out and in by FTP: beyond the two files, $((beyond / 1024)) MiB in all"
[ "$beyond" -le "$overhead_kib_max" ] || fail "that is more than $((overhead_kib_max / 1024)) MiB"
curl -fsS "$http/second.bin" -o "$work/back"
same "$work/back" "curl, of what FTP brought,"
curl -fsS --ftp-create-dirs -T "$work/cluster.toml" "$ftp/deep/er/cluster.toml"
curl -fsS -a -T "$work/cluster.toml" "$ftp/deep/er/cluster.toml"
curl -fsS "$http/deep/er/cluster.toml" | cmp -s - <(cat "$work/cluster.toml" "$work/cluster.toml") || fail "curl -a appended otherwise"
[ "$(curl -fsS -l "$ftp/deep/")" = $'er\r' ] || [ "$(curl -fsS -l "$ftp/deep/")" = er ] || fail "curl lists otherwise"
say "curl: FTP down, up, appended, listed"

if command -v python3 >/dev/null; then
    python3 - "$((port + 21))" "$work/cluster.toml" <<'PYTHON'
import ftplib, io, sys
ftp = ftplib.FTP()
ftp.connect("127.0.0.1", int(sys.argv[1]), timeout=60)
ftp.login("anybody", "anything")
text = open(sys.argv[2], "rb").read()
ftp.mkd("python")
ftp.cwd("python")
assert ftp.pwd() == "/python", ftp.pwd()
ftp.storbinary("STOR one", io.BytesIO(text))
ftp.voidcmd("TYPE I")
assert ftp.size("one") == len(text)
back = io.BytesIO()
ftp.retrbinary("RETR one", back.write, rest=10)
assert back.getvalue() == text[10:]
ftp.rename("one", "two")
assert ftp.nlst() == ["two"], ftp.nlst()
facts = dict(ftp.mlsd())
assert facts["two"]["type"] == "file" and int(facts["two"]["size"]) == len(text), facts
lines = []
ftp.retrlines("LIST", lines.append)
assert len(lines) == 1 and lines[0].endswith(" two"), lines
ftp.delete("two")
ftp.cwd("..")
ftp.rmd("python")
try:
    ftp.size("python/two")
except ftplib.error_perm as refused:
    assert str(refused).startswith("550"), refused
else:
    raise SystemExit("a file that was deleted has a size")
ftp.quit()
PYTHON
    say "python ftplib: made, written, resumed, renamed, listed, deleted"
fi

if command -v lftp >/dev/null; then
    mkdir -p "$work/tree/a/b" "$work/mirrored"
    cp "$work/cluster.toml" "$work/tree/a/one"
    printf 'two' >"$work/tree/a/b/two"
    lftp -c "set net:max-retries 1; set net:timeout 60; open $ftp; mirror -R $work/tree lftp; mirror lftp $work/mirrored; mv lftp/a/one lftp/a/three; rm lftp/a/three; ls lftp/a"
    diff -r "$work/tree" "$work/mirrored" || fail "lftp mirrors otherwise"
    [ "$(curl -fsS "$http/lftp/a/b/two")" = two ] || fail "what lftp wrote is not there"
    say "lftp: mirrored there and back, renamed, deleted"
fi
say "files: all is well"
