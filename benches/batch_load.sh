#!/usr/bin/env bash
# What an operation costs the servers where 64 of them come in one request: three processes on loopback, 100,000 keys of 128
# bytes, and `jumpgate bench` with 32 connections, one batch in flight on each, all of them to the leader.
#
#   benches/batch_load.sh [-r ROUNDS] [-n OPERATIONS] [-k KEYS] [-c CONNECTIONS] [-b BATCH] [JUMPGATE...]
#
# JUMPGATE is a program to measure, target/release/jumpgate by default. Several are measured in turn, round by round; the
# load comes from the first one each time. Needs curl.
#
# Columns: microseconds of processor time of the three servers together for each operation (from /proc/PID/stat), operations a
# second. The last lines are medians.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 operations=300000 keys=100000 connections=32 batch=64
while getopts "r:n:k:c:b:" option; do
    case $option in
        r) rounds=$OPTARG ;;
        n) operations=$OPTARG ;;
        k) keys=$OPTARG ;;
        c) connections=$OPTARG ;;
        b) batch=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- target/release/jumpgate

port=17600
# shellcheck source=benches/cluster.sh
. benches/cluster.sh

# run PROGRAM READS: batches of reads (1) or of writes (0).
run() {
    "$1" bench --url "$leader" --keys "$keys" --connections "$connections" --batch "$batch" --count "$operations" \
        --read "$2" --unprepared --json >"$scratch/out" 2>&1 || { tail -n 3 "$scratch/out" >&2; exit 1; }
}

measure() {
    local name=$1 operation=$2 reads=$3 before begun
    before=$(ticks) begun=$(date +%s%N)
    run "$client" "$reads"
    echo "$name $operation $(($(ticks) - before)) $(($(date +%s%N) - begun))" |
        awk -v hertz="$(getconf CLK_TCK)" -v count="$operations" '{
            printf "%s %s %.2f %.0f\n", $1, $2, $3 / hertz * 1e6 / count, count / $4 * 1e9 }' |
        tee -a "$scratch/results" | column -t
}

client=$1
echo "program operation cpu_us_per_operation operations_per_second"
for _ in $(seq "$rounds"); do
    number=0
    for program in "$@"; do
        number=$((number + 1))
        name="$number:$(basename "$program")"
        start_cluster "$program"
        "$client" bench --url "$leader" --keys "$keys" --count 1 >/dev/null 2>&1
        run "$client" 0
        measure "$name" put 0
        measure "$name" get 1
        stop_cluster
    done
done

echo
echo "medians of $rounds rounds"
medians 4
