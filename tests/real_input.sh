#!/usr/bin/env bash
# A whole dictionary through a real cluster: imported, exported, and exported again after nodes were killed.
#
#     bash tests/real_input.sh [FILE]
#
# FILE has a word a line; without it, Debian's word list (package wamerican) is used, and installed where that is possible.
# Three `jumpgate serve` processes hold it. Then:
#
#   import, export          what comes back is what went in
#   kill -9 of the leader   what comes back is what went in
#   restart it, wait until it is filled, kill -9 of another node
#                           what comes back is what went in
#
# It ends with a table of what it saw. Where no word list can be had it says so and skips.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C # the order of bytes, which is that of an export

records_min=100000
work=$(mktemp -d)
declare -A pids=()
table=""
clock=0

say() { printf '%s\n' "$*"; }

fail() {
    say "real input: $*" >&2
    local log
    for log in "$work"/*.err; do
        [ -s "$log" ] || continue
        say "---- the end of ${log##*/}" >&2
        tail -n 20 "$log" >&2
    done
    exit 1
}

clean_up() {
    local status=$?
    local name
    for name in "${!pids[@]}"; do
        kill -9 "${pids[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Milliseconds since some moment.
now_ms() {
    local seconds=$EPOCHREALTIME
    printf '%d' $((${seconds%.*} * 1000 + 10#${seconds#*.} / 1000))
}

begin() { clock=$(now_ms); }

# Notes a row of the table: what was done, records, bytes.
row() { table+=$(printf '%-42s %9d %12d %9d ms' "$1" "$2" "$3" $(($(now_ms) - clock)))$'\n'; }

find_words() {
    local file
    for file in "$@" /usr/share/dict/american-english /usr/share/dict/words; do
        if [ -s "$file" ]; then
            say "$file"
            return
        fi
    done
    return 1
}

install_words() {
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
        root=(sudo -n)
    fi
    command -v apt-get >/dev/null || return 1
    { "${root[@]}" apt-get update -qq && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wamerican; } \
        </dev/null >/dev/null 2>&1
}

# The records of an export or an import as "key<TAB>value" in the order of their bytes. Any tool but the program itself
# may do that, so that it isn't its own witness; the records hold nothing that JSON writes with a backslash.
flatten() {
    sed -n 's/^{"key":"\([^"]*\)","value":"\([^"]*\)"}$/\1\t\2/p' "$1" | sort >"$2"
}

# ---- the program and its input -----------------------------------------------------------------------------------------

program=""
for candidate in "${JUMPGATE:-}" target/release/jumpgate target/debug/jumpgate; do
    # One that is older than its source would prove something about another program.
    if [ -n "$candidate" ] && [ -x "$candidate" ] && [ -z "$(find src Cargo.lock -newer "$candidate" -print -quit)" ]; then
        program=$candidate
        break
    fi
done
if [ -z "$program" ]; then
    cargo build --release --locked
    program=target/release/jumpgate
fi

words=$(find_words "$@") || { install_words && words=$(find_words); } || {
    say "skipped: there is no word list (package wamerican) and it can't be installed here"
    exit 0
}

# A word a record: its value is its line in the list, in base64.
begin
awk 'NF && !seen[$0]++ { printf "%d %s\n", NR, $0 }' "$words" >"$work/lines"
records=$(wc -l <"$work/lines")
[ "$records" -ge "$records_min" ] || fail "$words has $records different words; at least $records_min are needed"
if grep -q '["\\[:cntrl:]]' "$work/lines"; then fail "$words has characters that JSON escapes"; fi
awk '
    BEGIN {
        digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        for (byte = 1; byte < 256; byte++) number[sprintf("%c", byte)] = byte
    }
    {
        count = length($0); encoded = ""
        for (at = 1; at <= count; at += 3) {
            one = number[substr($0, at, 1)]
            two = at + 1 <= count ? number[substr($0, at + 1, 1)] : 0
            three = at + 2 <= count ? number[substr($0, at + 2, 1)] : 0
            encoded = encoded substr(digits, int(one / 4) + 1, 1) substr(digits, (one % 4) * 16 + int(two / 16) + 1, 1)
            encoded = encoded (at + 1 <= count ? substr(digits, (two % 16) * 4 + int(three / 64) + 1, 1) : "=")
            encoded = encoded (at + 2 <= count ? substr(digits, three % 64 + 1, 1) : "=")
        }
        printf "{\"key\":\"%s\",\"value\":\"%s\"}\n", substr($0, index($0, " ") + 1), encoded
    }' "$work/lines" >"$work/input.ndjson"
# The encoder above is checked against the system's own.
for line in 1 2 3 "$((records / 2))" "$records"; do
    expected=$(sed -n "${line}p" "$work/lines" | tr -d '\n' | base64 -w 0)
    grep -qF "\"value\":\"$expected\"}" <(sed -n "${line}p" "$work/input.ndjson") || fail "record $line is not what it should be"
done
flatten "$work/input.ndjson" "$work/input.flat"
[ "$(wc -l <"$work/input.flat")" -eq "$records" ] || fail "the input has other records than $words"
row "$words as records" "$records" "$(wc -c <"$work/input.ndjson")"

# ---- the cluster -------------------------------------------------------------------------------------------------------

start() {
    "$program" serve --config "$work/cluster.toml" --node "$1" >>"$work/$1.out" 2>>"$work/$1.err" &
    pids[$1]=$!
}

kill_hard() {
    kill -9 "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}

status() { "$program" status --json --timeout 2s --url "$urls" 2>/dev/null || true; }

wait_until_whole() {
    local what=$1 end=$(($(now_ms) + 60000)) name
    while ! is_whole; do
        for name in "${!pids[@]}"; do
            kill -0 "${pids[$name]}" 2>/dev/null || fail "$name ended by itself"
        done
        [ "$(now_ms)" -lt "$end" ] || fail "after 60 s it had not happened: $what; status: $(status)"
        sleep 0.1
    done
}

# How often a field of the status has a value.
count() { grep -cE "\"$1\": $2,?\$" <<<"$3" || true; }

field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" <<<"$2" | head -n 1; }

# There is a quorum, all three nodes live and vote, every partition has all its copies, and every node has its share of
# them: what a node that came back is still being filled with doesn't count.
is_whole() {
    local now total
    now=$(status)
    total=$(field total "$now")
    [ -n "$total" ] && [ "$total" -gt 0 ] && [ "$(field full "$now")" = "$total" ] && [ "$(field quorum "$now")" = true ] &&
        [ "$(count voter true "$now")" -eq 3 ] && [ "$(count role '"(leader|follower)"' "$now")" -eq 3 ] &&
        [ "$(count learning 0 "$now")" -eq 3 ] && [ "$(count in_sync 0 "$now")" -eq 0 ]
}

export_and_compare() {
    begin
    "$program" export --url "$urls" --output "$work/$1.ndjson" 2>"$work/export.err" || fail "the export failed: $(cat "$work/export.err")"
    row "$2" "$(wc -l <"$work/$1.ndjson")" "$(wc -c <"$work/$1.ndjson")"
    flatten "$work/$1.ndjson" "$work/$1.flat"
    if ! cmp -s "$work/input.flat" "$work/$1.flat"; then
        diff "$work/input.flat" "$work/$1.flat" | head -n 10 >&2 || true
        fail "the export differs from the input: $2"
    fi
    # Two exports of the same values are the same bytes.
    [ "$1" = first ] || cmp "$work/first.ndjson" "$work/$1.ndjson" || fail "the export differs from the first one: $2"
}

# Ports below those that the system gives to outgoing connections, which could take a dead node's.
for attempt in 1 2 3 4 5; do
    port=$((4000 + RANDOM % 950))
    "$program" dev --print-config --port "$port" >"$work/cluster.toml"
    # Generous, so that a machine that is busy with other tests causes no failover of its own.
    printf '\n[timing]\nheartbeat = "50ms"\nelection = "500ms"\nlease = "400ms"\ndown = "450ms"\n' >>"$work/cluster.toml"
    urls="http://127.0.0.1:$((port + 1)),http://127.0.0.1:$((port + 2)),http://127.0.0.1:$((port + 3))"
    begin
    for node in n1 n2 n3; do start "$node"; done
    sleep 0.3
    taken=""
    for node in n1 n2 n3; do
        grep -q 'is taken' "$work/$node.err" && taken=yes
    done
    [ -n "$taken" ] || break
    for node in n1 n2 n3; do kill_hard "$node"; rm "$work/$node.err"; done
    [ "$attempt" -lt 5 ] || fail "no free ports were found"
done
wait_until_whole "the cluster is founded"
row "three processes are a cluster" 0 0

# ---- in, out, and out again --------------------------------------------------------------------------------------------

begin
imported=$("$program" import --url "$urls" "$work/input.ndjson" 2>"$work/import.err") || fail "the import failed: $(cat "$work/import.err")"
[[ $imported == "imported $records keys"* ]] || fail "it said: $imported"
row "import" "$records" "$(wc -c <"$work/input.ndjson")"
export_and_compare first "export"

leader=$(field leader "$(status)")
kill_hard "$leader"
export_and_compare second "export after kill -9 of the leader, $leader"

begin
start "$leader"
wait_until_whole "$leader is back and holds its copies"
row "$leader is started again and filled" "$records" 0
other=n1
[ "$leader" != n1 ] || other=n2
kill_hard "$other"
export_and_compare third "export after kill -9 of $other"

printf '\n%-42s %9s %12s %12s\n%s' "$program" records bytes time "$table"
say "$records records went in and came out the same, three times"
