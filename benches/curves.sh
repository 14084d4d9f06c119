#!/usr/bin/env bash
# How what an operation costs changes with the size of values, with the number of keys, and how its time does with load: three
# processes on loopback, `jumpgate bench` asks the leader.
#
#   benches/curves.sh size [JUMPGATE]        16 bytes to 1 MiB, beside what copying the same bytes to two places costs
#   benches/curves.sh keys [JUMPGATE]        a PUT at ten thousand keys and at ten million (takes 6 GiB and some minutes)
#   benches/curves.sh load [JUMPGATE]        times of PUTs at half of what a closed loop reaches
#   benches/curves.sh spread [JUMPGATE]      what each node takes, where one is asked and where all are, relaying and routing
#
# Costs are microseconds of processor time of the three servers together for each operation (from /proc/PID/stat). Needs curl and
# python3.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-}
program=${2:-target/release/jumpgate}
port=17800 keys=10000 connections=32
# shellcheck source=benches/cluster.sh
. benches/cluster.sh

bench() { "$program" bench --url "$leader" --unprepared --json "$@" >"$scratch/out"; }

# field NAME: a number of the last report, of all operations.
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["all"][sys.argv[2]])' "$scratch/out" "$1"; }

# cost COUNT ARGUMENTS...: microseconds of the servers for each of so many operations.
cost() {
    local count=$1 before
    shift
    before=$(ticks)
    bench --count "$count" "$@"
    awk -v ticks=$(($(ticks) - before)) -v hertz="$(getconf CLK_TCK)" -v count="$count" \
        'BEGIN { printf "%.1f\n", ticks / hertz * 1e6 / count }'
}

case $what in
    size)
        start_cluster "$program"
        echo "bytes put_us get_us copies_us put_to_copies"
        for size in 16 128 1024 16384 65536 262144 1048576; do
            few=$((size < 10000 ? 40000 : 3000000000 / size))
            few=$((few < 40000 ? few : 40000))
            # As many keys as fit well, so that values are replaced.
            names=$((size < 10000 ? 10000 : 100000000 / size))
            bench --size "$size" --keys "$names" --read 0 --connections 8 --count "$names"
            put=$(cost "$few" --size "$size" --keys "$names" --read 0 --connections 8)
            get=$(cost "$few" --size "$size" --keys "$names" --read 1 --connections 8)
            copies=$(python3 benches/copies.py "$size" "$few")
            awk -v size="$size" -v put="$put" -v get="$get" -v copies="$copies" \
                'BEGIN { printf "%d %.1f %.1f %.1f %.2f\n", size, put, get, copies, put / copies }'
        done
        ;;
    keys)
        start_cluster "$program" memory 8GiB
        for keys in 10000 10000000; do
            # In batches; two thirds of the keys come to be there.
            bench --keys "$keys" --read 0 --batch 512 --count "$keys"
            for _ in 1 2 3; do
                echo "$keys keys: a PUT $(cost 100000 --keys "$keys" --read 0), a GET $(cost 100000 --keys "$keys" --read 1)"
            done
            before=$(ticks)
            sleep 20
            echo "$keys keys: at rest $((($(ticks) - before) * 5 / 3)) hundredths of a percent of a core for each node"
            curl -s "$leader/v1/cluster" | python3 -c 'import json, sys
for node in json.load(sys.stdin)["nodes"]: print({name: node[name] for name in node if "byte" in name or "key" in name or name == "id"})'
        done
        ;;
    load)
        start_cluster "$program"
        bench --keys "$keys" --read 0 --batch 64 --count $((keys * 2))
        for round in 1 2 3; do
            bench --keys "$keys" --read 0 --duration 5s
            most=$(field per_second)
            half=$(awk -v most="$most" 'BEGIN { printf "%d", most / 2 }')
            bench --keys "$keys" --read 0 --duration 10s --rate "$half"
            echo "round $round: closed loop $most a second; at $half a second: p50 $(field p50_us) µs, p99 $(field p99_us) µs"
        done
        ;;
    spread)
        echo "followers asked operation us_of_n1 us_of_n2 us_of_n3"
        for followers in relay route; do
            stop_cluster
            start_cluster "$program" followers "$followers"
            bench --keys "$keys" --read 0 --batch 64 --count $((keys * 2))
            for asked in one all; do
                urls="$leader" spread=()
                if [ "$asked" = all ]; then
                    urls="http://127.0.0.1:$((port + 1)),http://127.0.0.1:$((port + 2)),http://127.0.0.1:$((port + 3))"
                    spread=(--spread)
                fi
                for reads in 1 0; do
                    mapfile -t before < <(ticks_each)
                    "$program" bench --url "$urls" "${spread[@]}" --unprepared --keys "$keys" --read "$reads" --count 100000 >/dev/null 2>&1
                    mapfile -t after < <(ticks_each)
                    operation=$([ "$reads" = 1 ] && echo get || echo put)
                    echo "$followers $asked $operation$(for nth in 0 1 2; do
                        awk -v ticks=$((after[nth] - before[nth])) -v hertz="$(getconf CLK_TCK)" \
                            'BEGIN { printf " %.1f", ticks / hertz * 1e6 / 100000 }'
                    done)"
                done
            done
        done
        ;;
    *)
        sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
        exit 2
        ;;
esac
