#!/usr/bin/env bash
# The load of http_load.sh on a Redis Cluster, for comparison: three masters with a replica each on loopback, nothing
# written to disk, 100,000 keys of 128 bytes, 32 connections with one request in flight on each.
#
#   benches/redis_load.sh [-r ROUNDS] [-n REQUESTS] [-k KEYS] [-c CONNECTIONS]
#
# What is different, and has to be kept in mind: redis-benchmark knows where each key lives and asks its master itself,
# a write is answered before the replica has it, and reads promise less when a master is cut off. Needs redis-server and
# redis-tools (Debian). Columns: microseconds of processor time of the six servers together for each request, requests a
# second, latencies in microseconds.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 requests=300000 keys=100000 connections=32
while getopts "r:n:k:c:" option; do
    case $option in
        r) rounds=$OPTARG ;;
        n) requests=$OPTARG ;;
        k) keys=$OPTARG ;;
        c) connections=$OPTARG ;;
        *) exit 2 ;;
    esac
done

port=17700
# shellcheck source=benches/cluster.sh
. benches/cluster.sh

addresses=()
for nth in 1 2 3 4 5 6; do
    mkdir "$scratch/$nth"
    redis-server --port $((port + nth)) --bind 127.0.0.1 --cluster-enabled yes --save '' --appendonly no \
        --dir "$scratch/$nth" --logfile "$scratch/$nth/log" --daemonize no &
    pids+=($!)
    addresses+=("127.0.0.1:$((port + nth))")
done
for nth in 1 2 3 4 5 6; do
    until redis-cli -p $((port + nth)) ping >"$scratch/ping" 2>&1; do sleep 0.1; done
done
redis-cli --cluster create "${addresses[@]}" --cluster-replicas 1 --cluster-yes >"$scratch/create"
until redis-cli -p $((port + 1)) cluster info | grep -q cluster_state:ok; do sleep 0.1; done

bench() {
    redis-benchmark --cluster -p $((port + 1)) -t "$1" -n "$2" -r "$keys" -d 128 -c "$connections" --csv 2>/dev/null |
        tr -d '"' | awk -F, -v operation="$1" 'tolower($1) == operation { print $2, $5 * 1000, $7 * 1000 }'
}

bench set $((keys * 5)) >"$scratch/fill"
echo "program operation cpu_us_per_request requests_per_second p50_us p99_us"
for _ in $(seq "$rounds"); do
    for operation in get set; do
        before=$(ticks)
        result=$(bench $operation "$requests")
        awk -v ticks=$(($(ticks) - before)) -v hertz="$(getconf CLK_TCK)" -v requests="$requests" \
            -v name="redis $operation" '{ printf "%s %.1f %.0f %d %d\n", name, ticks / hertz * 1e6 / requests, $1, $2, $3 }' \
            <<<"$result"
    done
done
