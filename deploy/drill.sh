#!/usr/bin/env bash
# Breaks a running cluster of containers in five ways and looks whether its promises hold: `deploy/drill.sh`.
#
# It needs bash, the Docker command line, a running Compose project (docker-compose.yml), and the program: `jumpgate` on
# the path, or JUMPGATE=path; otherwise it is copied out of a container. Keys below drill/ are written and left behind.
#
#   KEYS=5000                     records that are loaded and compared (1020 bytes each)
#   AWAY=5                        for how many seconds a node stays paused or cut off
#   PATIENCE=120                  seconds until all has to be in sync again
#   COMPOSE_PROJECT_NAME=…        the project; the name of the repository's folder otherwise
#   JUMPGATE_URL=…                the gateways, separated by commas
#
# A loop writes one small key after the other all the time; "no write for" is the longest time between two that were
# acknowledged. After each fault, and again after its repair, every record is exported and compared with what was loaded.
# At the end every acknowledged key of the loop has to be there. Exit code 0 if all of it held, 1 if not.
set -euo pipefail

keys=${KEYS:-5000}
away=${AWAY:-5}
patience=${PATIENCE:-120}
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
project=${COMPOSE_PROJECT_NAME:-$(basename "$folder" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}
default_urls=http://127.0.0.1:7401,http://127.0.0.1:7402,http://127.0.0.1:7403,http://127.0.0.1:7404,http://127.0.0.1:7405
export JUMPGATE_URL=${JUMPGATE_URL:-$default_urls}
work=$(mktemp -d)
writer=""
broken=0
table=""

clean_up() {
    : >"$work/stop"
    if [ -n "$writer" ]; then wait "$writer" || true; fi
    rm -rf "$work"
}
trap clean_up EXIT

say() { printf '%s\n' "$*" >&2; }
die() { say "drill: $*"; exit 1; }
now() { date +%s%3N; }

# The container of a node.
container() {
    docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1"
}

containers() { for node in "$@"; do container "$node"; done; }

# Every record that was loaded, as the cluster has it now: key and value, a line each.
records() { jumpgate export --prefix drill/data/ --timeout 30s 2>/dev/null | key_and_value; }
key_and_value() { sed -n 's/^{"key":"\([^"]*\)","value":"\([^"]*\)".*/\1 \2/p'; }

# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The same as every node sees it.
whole_for_all() {
    local url
    for url in ${JUMPGATE_URL//,/ }; do whole --url "$url" || return 1; done
}

# Whether the others have seen what was done to a node.
noticed() {
    for _ in $(seq 20); do
        if ! whole; then return; fi
        sleep 0.2
    done
    return 1
}

# Prints the milliseconds until the cluster was whole; fails if it never was.
until_whole() {
    local start
    start=$(now)
    until whole_for_all; do
        [ $(($(now) - start)) -lt $((patience * 1000)) ] || return 1
        sleep 0.2
    done
    echo $(($(now) - start))
}

leader() {
    local name
    for _ in $(seq 50); do
        name=$(jumpgate status --json 2>/dev/null | sed -n 's/^ *"leader": "\([^"]*\)".*/\1/p') || true
        if [ -n "$name" ]; then echo "$name"; return; fi
        sleep 0.2
    done
    die "no node leads"
}

# Others than the leader, the last ones first.
followers() {
    local first
    first=$(leader)
    printf '%s\n' "${nodes[@]}" | grep -vx "$first" | tac
}

write_for_ever() {
    local number=0
    while [ ! -e "$work/stop" ]; do
        number=$((number + 1))
        if jumpgate put "$run/$number" alive --timeout 10s >/dev/null 2>&1; then
            echo "$(now) ok $run/$number"
        else
            echo "$(now) failed $run/$number"
        fi
    done
}

# How many records are missing or altered.
differences() {
    records | LC_ALL=C sort >"$work/found" || true
    LC_ALL=C comm -23 "$work/loaded" "$work/found" | wc -l
}

# The longest time without an acknowledged write since $1, and how many were acknowledged and failed.
writes_since() {
    awk -v start="$1" -v end="$(now)" '
        $1 >= start && $2 == "ok" { if (last && $1 - last > gap) gap = $1 - last; ok++ }
        $1 >= start && $2 == "failed" { failed++ }
        $2 == "ok" { last = $1 }
        END { if (end - last > gap) gap = end - last; printf "%d %d %d\n", gap, ok, failed }' "$work/writes"
}

# step NAME BREAK REPAIR: two commands, by what is in them.
step() {
    local start seen=yes lost lost_after synced gap ok failed
    say "$1"
    start=$(now)
    eval "$2" >/dev/null
    noticed || seen=no
    lost=$(differences)
    eval "$3" >/dev/null
    synced=$(until_whole) || synced=never
    lost_after=$(differences)
    read -r gap ok failed <<<"$(writes_since "$start")"
    if [ "$lost" != 0 ] || [ "$lost_after" != 0 ] || [ "$synced" = never ] || [ "$seen" = no ]; then broken=1; fi
    if [ "$synced" != never ]; then synced="$synced ms"; fi
    table+="| $1 | $seen | $gap ms | $ok | $failed | $keys | $lost | $lost_after | $synced |"$'\n'
}

command -v docker >/dev/null || die "there is no docker command"
mapfile -t nodes < <(docker ps -a --filter "label=com.docker.compose.project=$project" \
    --format '{{.Label "com.docker.compose.service"}}' | grep -E '^n[0-9]+$' | sort -u)
[ "${#nodes[@]}" -ge 3 ] || die "the project $project has no containers n1, n2, n3 …; start them with docker compose up"
half=$((${#nodes[@]} / 2))
program=${JUMPGATE:-$(command -v jumpgate || true)}
if [ -z "$program" ]; then
    program=$work/jumpgate
    docker cp "$(container "${nodes[0]}"):/usr/local/bin/jumpgate" "$program" >/dev/null
fi
jumpgate() { "$program" "$@"; }

say "waiting for ${#nodes[@]} nodes of $project"
until_whole >/dev/null || die "the cluster was not whole to begin with"
say "loading $keys records"
head -c $((keys * 1020)) /dev/urandom | base64 -w 1360 \
    | awk '{ printf "{\"key\":\"drill/data/%07d\",\"value\":\"%s\"}\n", NR, $0 }' >"$work/input"
jumpgate import "$work/input" >&2
key_and_value <"$work/input" | LC_ALL=C sort >"$work/loaded"
say "sha256 of all records: $(sha256sum <"$work/loaded" | cut -c1-16)"
[ "$(differences)" = 0 ] || die "what was exported isn't what was imported"

run=drill/live/$$
write_for_ever >"$work/writes" 2>/dev/null &
writer=$!
sleep 2

mapfile -t gone < <(followers | head -n "$half")
mapfile -t ids < <(containers "${gone[@]}")
step "kill ${gone[*]} at once" 'docker kill "${ids[@]}"' 'docker start "${ids[@]}"'

one=$(followers | head -n 1)
id=$(container "$one")
step "pause $one for $away s" 'docker pause "$id"; sleep "$away"' 'docker unpause "$id"'

one=$(followers | sed -n 2p)
id=$(container "$one")
network=$(docker inspect "$id" --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}')
step "cut $one off the network for $away s" 'docker network disconnect "$network" "$id"; sleep "$away"' \
    'docker network connect --alias "$one" "$network" "$id"'

one=$(leader)
id=$(container "$one")
step "kill the leader, $one" 'docker kill "$id"' 'docker start "$id"'

one=$(leader)
mapfile -t gone < <(echo "$one"; followers | head -n $((half - 1)))
mapfile -t ids < <(containers "${gone[@]}")
step "kill half with the leader: ${gone[*]}" 'docker kill "${ids[@]}"' 'docker start "${ids[@]}"'

: >"$work/stop"
wait "$writer"
writer=""
awk '$2 == "ok" { print $3 }' "$work/writes" | LC_ALL=C sort >"$work/acknowledged"
jumpgate export --prefix "$run/" --timeout 30s 2>/dev/null | key_and_value | sed -n 's/ YWxpdmU=$//p' \
    | LC_ALL=C sort >"$work/kept"
lost=$(LC_ALL=C comm -23 "$work/acknowledged" "$work/kept" | wc -l)
if [ "$lost" != 0 ]; then broken=1; fi

printf '%s\n' "| fault | noticed | no write for | writes acknowledged | writes failed | records compared | missing or altered in it | and after it | in sync after |" \
    "|---|---|---|---|---|---|---|---|---|"
printf '%s' "$table"
printf 'Of %d writes that were acknowledged meanwhile, %d are missing.\n' "$(wc -l <"$work/acknowledged")" "$lost"
[ "$broken" = 0 ] || die "a promise was broken"
