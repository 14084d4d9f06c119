#!/usr/bin/env bash
# Where the servers' processor time goes under the load of http_load.sh: a table of shares, for GET and for PUT.
#
#   benches/profile.sh [-s SECONDS] [-k KEYS] [-c CONNECTIONS] [-o DIRECTORY] [JUMPGATE]
#
# Needs perf (Debian: linux-perf), wrk and curl, and to be allowed to use perf. Each sample counts for the innermost
# function that one of the rules below knows. With -o the recordings stay there, for `perf report`.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=5 keys=100000 connections=32 keep=
while getopts "s:k:c:o:" option; do
    case $option in
        s) seconds=$OPTARG ;;
        k) keys=$OPTARG ;;
        c) connections=$OPTARG ;;
        o) keep=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

port=17500
# shellcheck source=benches/cluster.sh
. benches/cluster.sh
keep=${keep:-$scratch}
mkdir -p "$keep"

# Turns `perf script` into shares. A stack is printed leaf first; an empty line ends it.
shares() {
    awk '
        # The part of the program that the innermost known function belongs to.
        function part(symbol) {
            if (symbol ~ /jumpgate::codec|bincode|crc32fast|base::blob/) return "codec"
            if (symbol ~ /jumpgate::(replica|store)/) return "core: replica, store"
            if (symbol ~ /jumpgate::(node|placement|control|raft)/) return "core: node"
            if (symbol ~ /jumpgate::runtime/) return "runtime"
            if (symbol ~ /jumpgate::net/) return "streams and pulses"
            if (symbol ~ /jumpgate::gateway/) return "gateway"
            if (symbol ~ /hyper|httparse|http::|warp|tower|headers::|httpdate|percent_encoding/) return "HTTP: hyper, warp"
            if (symbol ~ /tokio|mio::/) return "tokio"
            return ""
        }
        # What the kernel was asked for.
        function call() {
            if (stack ~ /exit_to_user_mode_loop/) return "kernel: giving up the processor"
            if (stack ~ /tcp_sendmsg|udp_sendmsg|do_writev|sys_sendto/) return "kernel: send to " side()
            if (stack ~ /sys_recv|vfs_readv|do_readv/) return "kernel: receive from " side()
            if (stack ~ /_sys_futex/) return "kernel: futex"
            if (stack ~ /_sys_epoll/) return "kernel: epoll"
            if (stack ~ /eventfd/) return "kernel: eventfd"
            return "kernel: other"
        }
        function side() { return stack ~ /hyper|gateway/ ? "clients" : "nodes" }
        function count_sample(    name) {
            if (depth == 0) return
            name = kernel ? call() : owner == "" ? "other" : owner
            total++
            samples[name]++
            if (!kernel && leaf ~ /malloc|free|realloc|calloc|_int_|rust_alloc|rust_dealloc|tcache|unlink_chunk/) allocator++
            depth = 0; owner = ""; stack = ""; kernel = 0
        }
        /^$/ { count_sample(); next }
        /^[ \t]+[0-9a-f]+ / {
            symbol = $0
            sub(/^[ \t]+[0-9a-f]+ /, "", symbol)
            if (depth++ == 0) { leaf = symbol; kernel = $1 ~ /^ffffffff/ && $1 != "ffffffffffffffff" }
            if (owner == "") owner = part(symbol)
            stack = stack " " symbol
        }
        END {
            count_sample()
            for (name in samples) printf "%6.1f %%  %s\n", 100 * samples[name] / total, name | "sort -rn"
            close("sort -rn")
            printf "(of which in the allocator: %.1f %%; %d samples)\n", 100 * allocator / total, total
        }'
}

program=${1:-target/release/jumpgate}
start_cluster "$program"
fill "$program"
joined=$(IFS=,; echo "${pids[*]}")
for operation in get put; do
    data=$keep/$operation.data
    perf record -q -e cpu-clock -F 499 --call-graph dwarf,8192 -o "$data" -p "$joined" -- sleep "$seconds" &
    recorder=$!
    # The recording alone may make a node so late that another one takes over.
    load "$operation" "$((seconds + 1))s" || true
    wait "$recorder"
    echo "$operation: $result"
    perf script -i "$data" --no-inline -F ip,sym 2>/dev/null | shares
    echo
done
