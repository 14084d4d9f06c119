# shellcheck shell=bash
# Three servers on loopback, what they take, and wrk, for the scripts beside this one. To be sourced.
#
# Reads `port`, `keys` and `connections`; sets `pids`, `leader`, `result` and `scratch`.
# shellcheck disable=SC2034,SC2154

scratch=$(mktemp -d)
pids=()
leader=

stop_cluster() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
trap 'stop_cluster; rm -rf "$scratch"' EXIT

# Starts three processes of the program $1 and waits for their leader; with a setting of `dev --print-config`, $2, at the value $3
# where they are given.
start_cluster() {
    local node
    "$1" dev --print-config --port "$port" >"$scratch/cluster.toml"
    if [ $# -gt 1 ]; then
        sed -i "s/^$2 *= *\"[^\"]*\"/$2 = \"$3\"/" "$scratch/cluster.toml"
        grep -q "^$2 = \"$3\"" "$scratch/cluster.toml"
    fi
    for node in n1 n2 n3; do
        "$1" serve --config "$scratch/cluster.toml" --node $node >"$scratch/$node.log" 2>&1 &
        pids+=($!)
    done
    find_leader
}

# Processor time of each server that runs, in clock ticks; and of all.
ticks_each() {
    local fields pid
    for pid in "${pids[@]}"; do
        read -r -a fields < <(sed 's/^.*) //' "/proc/$pid/stat")
        echo $((fields[11] + fields[12]))
    done
}

ticks() { ticks_each | awk '{ sum += $1 } END { print sum }'; }

# Medians of the rounds in the file `results` in `scratch`: of its columns 3 to $1, by the first two.
medians() {
    sort -k1,2 "$scratch/results" | awk -v last="$1" '
        function median(values, count,    i, j, swap) {
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && values[j] < values[j - 1]; j--) { swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap }
            return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
        }
        function flush_group(    column, i, copy) {
            if (count == 0) return
            printf "%s", group
            for (column = 3; column <= last; column++) {
                for (i = 1; i <= count; i++) copy[i] = cell[i, column]
                printf " %s", median(copy, count)
            }
            printf "\n"
        }
        { if ($1 " " $2 != group) { flush_group(); group = $1 " " $2; count = 0 }
          count++; for (column = 3; column <= last; column++) cell[count, column] = $column + 0 }
        END { flush_group() }' | column -t
}

find_leader() {
    local status
    for _ in $(seq 100); do
        status=$(curl -s "http://127.0.0.1:$((port + 1))/v1/cluster" || true)
        leader=$(grep -o '"leader_url":"[^"]*"' <<<"$status" | cut -d'"' -f4 || true)
        # Every partition has all its copies.
        if [ -n "$leader" ] && grep -q '"full":4096' <<<"$status"; then return; fi
        sleep 0.1
    done
    echo "no leader came up; the last words of each node:" >&2
    tail -n 3 "$scratch"/n?.log >&2
    exit 1
}

# Has the program $1 store a value of 128 bytes under every key.
fill() {
    local value
    value=$(head -c 128 /dev/zero | tr '\0' v | base64 -w 0)
    seq -f 'key-%07.0f' 0 $((keys - 1)) |
        sed "s|.*|{\"key\":\"&\",\"value\":\"$value\",\"content_type\":\"application/octet-stream\"}|" |
        "$1" import --url "$leader" >"$scratch/import.log" 2>&1 || { cat "$scratch/import.log" >&2; exit 1; }
}

# Writes down which of the first 6000 keys the leader is primary of, is a backup of, and holds no copy of: the files primary,
# backup and away in `scratch`.
find_places() {
    local name most=$((keys < 6000 ? keys : 6000))
    name=$(curl -s "$leader/v1/cluster" | grep -o '"leader":"[^"]*"' | cut -d'"' -f4)
    curl -s -w '\n' "$leader/v1/locate/key-[0000000-$(printf %07d $((most - 1)))]" | awk -v name="$name" -v scratch="$scratch" '
        {
            match($0, /"key":"key-[0-9]+"/)
            number = substr($0, RSTART + 11, RLENGTH - 12) + 0
            place = $0 ~ "\"primary\":\"" name "\"" ? "primary" : $0 ~ "\"in_sync\":[^]]*\"" name "\"" ? "backup" : "away"
            print number >(scratch "/" place)
        }'
}

# Has wrk do $1 (get or put) for the time $2, to the keys whose numbers are in the file $3 where one is given; sets `result`.
# Fails where a request did.
load() {
    result=$(wrk -t1 "-c$connections" "-d$2" --timeout 10 -s benches/http_load.lua "$leader" -- "$1" "$keys" ${3+"$3"} |
        grep '^result')
    case $result in
        *" failed=0") ;;
        *) echo "requests failed: $result" >&2; return 1 ;;
    esac
}
