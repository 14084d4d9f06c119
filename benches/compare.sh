#!/usr/bin/env bash
# What an operation costs the servers of jumpgate and of other stores, on this machine, in one run.
#
#   benches/compare.sh [-r ROUNDS] [-n OPERATIONS] [-k KEYS] [-c CONNECTIONS] [JUMPGATE]
#
# Installs nothing: it measures what it finds of redis-server (with redis-benchmark and redis-cli), etcd, nats-server and
# memcached, and says what it doesn't find. Each store is loaded in turn, round by round, so that whatever else the machine
# does meets all of them alike. The table on stdout, in Markdown, has medians of the rounds, and each one's ratio to
# jumpgate's operation of the same kind (above 1: jumpgate is cheaper).
#
# jumpgate, etcd and NATS: three processes. Redis Cluster: three masters with a replica each. memcached: one process, one
# copy, for the sake of a floor. Values of 128 bytes; 32 connections with one request in flight on each. Processor time is
# that of the servers alone, from /proc/PID/stat; the clients' is not counted, and it is no part of any ratio.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 operations=100000 keys=100000 connections=32
while getopts "r:n:k:c:" option; do
    case $option in
        r) rounds=$OPTARG ;;
        n) operations=$OPTARG ;;
        k) keys=$OPTARG ;;
        c) connections=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
jumpgate=${1:-target/release/jumpgate}
[ -x "$jumpgate" ] || { echo "there is no program $jumpgate: cargo build --release" >&2; exit 2; }

scratch=$(mktemp -d)
declare -A pids # of each store, its processes
started=()
cleanup() {
    local pid
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap cleanup EXIT

found() { command -v "$1" >/dev/null; }
say() { echo "$*" >&2; }

# launch STORE COMMAND...: a server of that store.
launch() {
    local store=$1
    shift
    "$@" >>"$scratch/$store.log" 2>&1 &
    started+=($!)
    pids[$store]="${pids[$store]:-} $!"
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { say "gave up waiting for: $*"; return 1; }
        sleep 0.1
    done
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ticks() {
    local sum=0 fields pid
    for pid in ${pids[$1]}; do
        read -r -a fields < <(sed 's/^.*) //' "/proc/$pid/stat")
        sum=$((sum + fields[11] + fields[12]))
    done
    echo $sum
}

# measure STORE OPERATION COUNT COMMAND...: microseconds of the servers' processor time for each operation. Where COUNT is
# `told`, the command goes by time and tells how many it did, as `result requests=N`.
measure() {
    local store=$1 operation=$2 count=$3 before spent
    shift 3
    before=$(ticks "$store")
    "$@" >"$scratch/out" 2>&1 || { say "$store $operation failed: $(tail -n 3 "$scratch/out")"; return 0; }
    spent=$(($(ticks "$store") - before))
    [ "$count" != told ] || count=$(sed -n 's/^result requests=\([0-9]*\).*/\1/p' "$scratch/out")
    awk -v ticks="$spent" -v hertz="$(getconf CLK_TCK)" -v count="$count" -v name="$store $operation" \
        'BEGIN { printf "%s %.2f\n", name, ticks / hertz * 1e6 / count }' | tee -a "$scratch/results" >&2
}

# ---- jumpgate

leader=
start_jumpgate() {
    local node
    "$jumpgate" dev --print-config --port 17100 >"$scratch/cluster.toml"
    for node in n1 n2 n3; do launch jumpgate "$jumpgate" serve --config "$scratch/cluster.toml" --node $node; done
    JUMPGATE_URL=http://127.0.0.1:17101,http://127.0.0.1:17102,http://127.0.0.1:17103
    export JUMPGATE_URL
    until_true 20 "$jumpgate" health
    leader=$("$jumpgate" status --json | grep -o '"leader_url": *"[^"]*"' | cut -d'"' -f4)
    [ -n "$leader" ]
    run_jumpgate --count 1
}

run_jumpgate() { "$jumpgate" bench --url "$leader" --keys "$keys" --connections "$connections" --json "$@"; }

load_jumpgate() {
    measure jumpgate get "$operations" run_jumpgate --unprepared --read 1 --count "$operations"
    measure jumpgate put "$operations" run_jumpgate --unprepared --read 0 --count "$operations"
    measure jumpgate batch64-get "$operations" run_jumpgate --unprepared --read 1 --batch 64 --count "$operations"
    measure jumpgate batch64-put "$operations" run_jumpgate --unprepared --read 0 --batch 64 --count "$operations"
    # The same without what this client adds, keys for idempotency above all.
    if found wrk; then
        local operation
        for operation in get put; do measure jumpgate "plain-$operation" told wrk_timed $operation; done
    fi
}

wrk_timed() { wrk -t1 "-c$connections" -d3s --timeout 10 -s benches/http_load.lua "$leader" -- "$1" "$keys"; }

# ---- Redis Cluster

start_redis() {
    local nth addresses=()
    for nth in 1 2 3 4 5 6; do
        mkdir "$scratch/redis$nth"
        launch redis redis-server --port $((17200 + nth)) --bind 127.0.0.1 --cluster-enabled yes --save '' --appendonly no \
            --dir "$scratch/redis$nth" --daemonize no
        addresses+=("127.0.0.1:$((17200 + nth))")
    done
    for nth in 1 2 3 4 5 6; do until_true 10 redis-cli -p $((17200 + nth)) ping; done
    redis-cli --cluster create "${addresses[@]}" --cluster-replicas 1 --cluster-yes >"$scratch/create"
    until_true 20 redis_is_up
    run_redis "$((keys * 3))" -t set
}

redis_is_up() { redis-cli -p 17201 cluster info | grep -q cluster_state:ok; }

run_redis() {
    local count=$1
    shift
    redis-benchmark --cluster -p 17201 -n "$count" -r "$keys" -d 128 -c "$connections" --csv "$@"
}

load_redis() {
    measure redis get "$operations" run_redis "$operations" -t get
    measure redis set "$operations" run_redis "$operations" -t set
    measure redis pipeline64-get $((operations * 4)) run_redis $((operations * 4)) -t get -P 64
    measure redis pipeline64-set $((operations * 4)) run_redis $((operations * 4)) -t set -P 64
    measure redis set-wait1 "$operations" run_redis_wait "$operations"
}

# redis-benchmark can't follow each SET by a WAIT, so redis-cli does, a process for each connection. All keys carry one tag of
# the first master, which WAIT goes to, so that no redirect is met. The count is that of the SETs.
run_redis_wait() {
    local count=$1 port=17201 tag each connection
    for tag in a b c d e f g h i j k l m n o p; do
        redis-cli -p "$port" set "{$tag}probe" 1 2>/dev/null | grep -q OK && break
    done
    each=$((count / connections))
    local clients=()
    for connection in $(seq "$connections"); do
        awk -v tag="$tag" -v each="$each" -v keys="$keys" -v seed="$connection" 'BEGIN {
            srand(seed); value = sprintf("%128s", ""); gsub(" ", "v", value)
            for (i = 0; i < each; i++) printf "SET {%s}key-%07d %s\nWAIT 1 0\n", tag, int(rand() * keys), value }' |
            redis-cli -p "$port" >"$scratch/wait" 2>&1 &
        clients+=($!)
    done
    wait "${clients[@]}"
}

# ---- etcd

start_etcd() {
    local nth cluster=
    for nth in 1 2 3; do cluster+="e$nth=http://127.0.0.1:$((17310 + nth)),"; done
    for nth in 1 2 3; do
        launch etcd etcd --name "e$nth" --data-dir "$scratch/etcd$nth" --initial-cluster "${cluster%,}" \
            --initial-advertise-peer-urls "http://127.0.0.1:$((17310 + nth))" \
            --listen-peer-urls "http://127.0.0.1:$((17310 + nth))" \
            --advertise-client-urls "http://127.0.0.1:$((17300 + nth))" \
            --listen-client-urls "http://127.0.0.1:$((17300 + nth))"
    done
    until_true 20 env ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:17301 endpoint health
    etcd_bodies
}

# Bodies for etcd's JSON gateway; the leader and the others answer alike.
etcd_bodies() {
    cat >"$scratch/etcd.lua" <<'LUA'
local value = "dnZ2" .. string.rep("dnZ2", 41) .. "dnY="
local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
   local out = {}
   for at = 1, #text, 3 do
      local a, b, c = text:byte(at, at + 2)
      local bits = a * 65536 + (b or 0) * 256 + (c or 0)
      for nth = 3, 0, -1 do
         local index = math.floor(bits / 64 ^ nth) % 64 + 1
         out[#out + 1] = letters:sub(index, index)
      end
      if not b then out[#out - 1] = "=" end
      if not c then out[#out] = "=" end
   end
   return table.concat(out)
end
local operation, keys
function init(args) operation, keys = args[1], tonumber(args[2]) end
function request()
   local key = base64(string.format("key-%07d", math.random(0, keys - 1)))
   if operation == "get" then return wrk.format("POST", "/v3/kv/range", nil, '{"key":"' .. key .. '"}') end
   return wrk.format("POST", "/v3/kv/put", nil, '{"key":"' .. key .. '","value":"' .. value .. '"}')
end
function done(summary) io.write(string.format("result requests=%d\n", summary.requests)) end
LUA
}

load_etcd() {
    local operation
    found wrk || { say "etcd is loaded through its JSON gateway by wrk, which isn't there"; return 0; }
    for operation in put get; do
        measure etcd $operation told wrk -t1 "-c$connections" -d5s --timeout 10 -s "$scratch/etcd.lua" \
            http://127.0.0.1:17301 -- $operation "$keys"
    done
}

# ---- memcached

start_memcached() {
    launch memcached memcached -u nobody -l 127.0.0.1 -p 17501 -m 256 -t 1
    until_true 5 port_open 17501
}

# The protocol is lines of text, so awk and bash do; each connection waits for nothing but its own answers.
load_memcached() {
    local operation
    for operation in set get; do
        measure memcached $operation $((operations / connections * connections)) run_memcached $operation
    done
}

run_memcached() {
    local operation=$1 each=$((operations / connections)) clients=() connection
    for connection in $(seq "$connections"); do
        memcached_connection "$operation" "$each" "$connection" &
        clients+=($!)
    done
    wait "${clients[@]}"
}

memcached_connection() {
    local operation=$1 each=$2 nth value line
    printf -v value '%128s' ''
    value=${value// /v}
    exec 3<>/dev/tcp/127.0.0.1/17501
    for ((nth = 0; nth < each; nth++)); do
        if [ "$operation" = set ]; then
            printf 'set key-%07d 0 0 128\r\n%s\r\n' $((RANDOM * 4 % keys)) "$value" >&3
            read -r line <&3
        else
            printf 'get key-%07d\r\n' $((RANDOM * 4 % keys)) >&3
            while read -r line <&3 && [ "${line%$'\r'}" != END ]; do :; done
        fi
    done
    exec 3>&-
}

# ---- all of them

stores=(jumpgate)
if found redis-server && found redis-benchmark && found redis-cli; then stores+=(redis); else say "not found: redis"; fi
if found etcd && found etcdctl; then stores+=(etcd); else say "not found: etcd"; fi
if found memcached; then stores+=(memcached); else say "not found: memcached"; fi
found nats-server && found nats || say "not found: NATS with its client (nats), or only one of the two"
if found nats-server && found nats; then
    stores+=(nats)
fi

start_nats() {
    local nth routes=
    for nth in 1 2 3; do routes+="nats://127.0.0.1:$((17610 + nth)),"; done
    for nth in 1 2 3; do
        launch nats nats-server -a 127.0.0.1 -p $((17600 + nth)) -n "s$nth" -js -sd "$scratch/nats$nth" \
            --cluster_name bench --cluster "nats://127.0.0.1:$((17610 + nth))" --routes "${routes%,}"
    done
    until_true 20 nats --server nats://127.0.0.1:17601 kv add bench --replicas 3 --storage memory
}

load_nats() {
    measure nats put "$operations" nats --server nats://127.0.0.1:17601 bench kvput --bucket bench \
        --msgs "$operations" --size 128 --clients "$connections" --no-progress
    measure nats get "$operations" nats --server nats://127.0.0.1:17601 bench kvget --bucket bench \
        --msgs "$operations" --clients "$connections" --no-progress
}

for store in "${stores[@]}"; do
    "start_$store" >"$scratch/start" 2>&1 || { say "$store didn't start: $(tail -n 3 "$scratch/start")"; exit 1; }
done
for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    for store in "${stores[@]}"; do "load_$store"; done
done

awk -v rounds="$rounds" '
    function median(list,    values, count, i, j, swap) {
        count = split(list, values, " ")
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && values[j] + 0 < values[j - 1] + 0; j--) { swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap }
        return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
    }
    BEGIN {
        guarantee["jumpgate get"] = "linearizable; the primary answers, or the leader from its copy; a third of the keys take a hop"
        guarantee["jumpgate put"] = "both copies have it; executed once, however often it is sent"
        guarantee["jumpgate plain-get"] = guarantee["jumpgate get"]
        guarantee["jumpgate plain-put"] = "both copies have it"
        guarantee["jumpgate batch64-get"] = "each as a get, 64 in a request"
        guarantee["jumpgate batch64-put"] = "each as a put, 64 in a request"
        guarantee["redis get"] = "the master as it is; what it has may be lost, or replaced elsewhere"
        guarantee["redis set"] = "the master has it; its replica will"
        guarantee["redis set-wait1"] = "master and replica have it; a failover may still lose it"
        guarantee["redis pipeline64-get"] = "as get, 64 in flight on each connection"
        guarantee["redis pipeline64-set"] = "as set, 64 in flight on each connection"
        guarantee["etcd put"] = "a majority has it on disk; over the JSON gateway"
        guarantee["etcd get"] = "linearizable; over the JSON gateway"
        guarantee["nats put"] = "a majority of three has it in memory"
        guarantee["nats get"] = "whichever copy answers"
        guarantee["memcached set"] = "one process has it; no copies"
        guarantee["memcached get"] = "one process; no copies"
        like["get"] = "get"; like["put"] = "put"; like["set"] = "put"; like["set-wait1"] = "put"
        like["plain-get"] = "get"; like["plain-put"] = "put"
        like["pipeline64-get"] = "batch64-get"; like["pipeline64-set"] = "batch64-put"
        like["batch64-get"] = "batch64-get"; like["batch64-put"] = "batch64-put"
    }
    { name = $1 " " $2; if (!(name in seen)) order[++count] = name; seen[name] = seen[name] " " $3; kind[name] = $2 }
    END {
        print "| store | operation | server µs an operation | of it to jumpgate | what it guarantees |"
        print "|---|---|---|---|---|"
        for (i = 1; i <= count; i++) {
            name = order[i]; split(name, part, " ")
            mine = "jumpgate plain-" like[kind[name]]
            if (!(mine in seen)) mine = "jumpgate " like[kind[name]]
            value = median(seen[name])
            ratio = (mine in seen) ? sprintf("%.2f", value / median(seen[mine])) : "-"
            printf "| %s | %s | %.1f | %s | %s |\n", part[1], part[2], value, ratio, guarantee[name]
        }
    }' "$scratch/results"
