#!/usr/bin/env bash
# What a request costs the servers: three processes on loopback, 100,000 keys of 128 bytes, and wrk with 32 connections,
# one request in flight on each, all of them to the leader.
#
#   benches/http_load.sh [-p] [-r ROUNDS] [-s SECONDS] [-k KEYS] [-c CONNECTIONS] [JUMPGATE...]
#
# With -p also apart by where a key lives: the leader is its primary, its backup, or holds no copy of it (away).
#
# JUMPGATE is a program to measure, target/release/jumpgate by default. Several are measured in turn, round by round, so
# that whatever else the machine does meets all of them alike. Needs wrk (Debian: wrk) and curl.
#
# Columns: microseconds of processor time of the three servers together for each request (from /proc/PID/stat), times that
# their threads went to sleep for each request, requests a second, latencies in microseconds. The last lines are medians.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 seconds=5 keys=100000 connections=32 places=
while getopts "pr:s:k:c:" option; do
    case $option in
        p) places="primary backup away" ;;
        r) rounds=$OPTARG ;;
        s) seconds=$OPTARG ;;
        k) keys=$OPTARG ;;
        c) connections=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- target/release/jumpgate

port=17400
# shellcheck source=benches/cluster.sh
. benches/cluster.sh

# How often their threads went to sleep.
sleeps() {
    local pid
    for pid in "${pids[@]}"; do cat "/proc/$pid"/task/*/status; done | awk '/^voluntary/ { sum += $2 } END { print sum }'
}

measure() {
    local name=$1 operation=$2 place=${3-} before slept
    before=$(ticks) slept=$(sleeps)
    load "$operation" "${seconds}s" ${place:+"$scratch/$place"}
    # shellcheck disable=SC2001
    echo "$name $operation${place:+-$place} $(($(ticks) - before)) $(($(sleeps) - slept)) $(sed 's/[a-z0-9_]*=//g; s/^result //' <<<"$result")" |
        awk -v hertz="$(getconf CLK_TCK)" '{
            printf "%s %s %.1f %.2f %.0f %d %d\n", $1, $2, $3 / hertz * 1e6 / $5, $4 / $5, $5 / $6, $7, $8 }' |
        tee -a "$scratch/results" | column -t
}

measure_idle() {
    local name=$1 before slept
    sleep 1
    before=$(ticks) slept=$(sleeps)
    sleep "$seconds"
    echo "$name idle $(($(ticks) - before)) $(($(sleeps) - slept))" |
        awk -v hertz="$(getconf CLK_TCK)" -v seconds="$seconds" '{
            printf "%s %s %.2f %.0f 0 0 0\n", $1, $2, $3 / hertz * 100 / seconds / 3, $4 / seconds / 3 }' |
        tee -a "$scratch/results" | column -t
}

echo "program operation cpu_us_per_request sleeps_per_request requests_per_second p50_us p99_us"
echo "(idle: percent of a core for each node, times that a node's threads went to sleep in a second)"
for _ in $(seq "$rounds"); do
    number=0
    for program in "$@"; do
        number=$((number + 1))
        name="$number:$(basename "$program")"
        start_cluster "$program"
        fill "$program"
        measure "$name" get
        measure "$name" put
        if [ -n "$places" ]; then
            find_places
            for place in $places; do
                measure "$name" get "$place"
                measure "$name" put "$place"
            done
        fi
        measure_idle "$name"
        stop_cluster
    done
done

echo
echo "medians of $rounds rounds"
medians 7
