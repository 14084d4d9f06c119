#!/usr/bin/env bash
# Breaks a running cluster in several ways and looks whether its promises hold: `deploy/drill.sh [OPTION] [STEP...]`.
#
# The nodes are containers of a running Compose project (docker-compose.yml), or, where no Docker engine answers, processes
# that the drill starts itself. It needs bash, and the program: `jumpgate` on the path, or JUMPGATE=path; otherwise it is
# copied out of a container. Keys below drill/ are written and left behind.
#
#   --containers, --processes     choose
#   --help                        this text
#
# Steps, in this order if none is named, but for those in brackets, which take longer:
#
#   kill                          half of the nodes at once, the leader not among them
#   pause                         a node is stopped without its knowledge
#   cut                           a node is off the network
#   leader                        the leader is killed
#   leaders-half                  half of the nodes at once, the leader among them
#   roll                          all nodes are restarted in turn (deploy/rolling-restart.sh)
#   [roll-drain]                  the same with --drain
#   [scale]                       a sixth container joins and leaves again (containers only)
#
#   KEYS=5000                     records that are loaded and compared (1020 bytes each)
#   AWAY=5                        for how many seconds a node stays paused or cut off
#   PATIENCE=120                  seconds until all has to be in sync again
#   COMPOSE_PROJECT_NAME=…        the project; the name of the repository's folder otherwise
#   NODES=5                       how many processes
#   JUMPGATE_URL=…                the gateways of containers, separated by commas
#
# A loop writes one small key after the other all the time; "no write for" is the longest time between two that were
# acknowledged, and a write has failed when it could not be mended by trying again for 10 s. After each fault, and again after
# its repair, every record is exported and compared with what was loaded. At the end every acknowledged key of the loop has to be there.
# Exit code 0 if all of it held, 1 if not. Processes are hosts of their own in a network of their own where this user may make
# one (unshare, nsenter, ip); otherwise they share loopback, and nobody is cut off.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
die() { say "drill: $*"; exit 1; }
now() { date +%s%3N; }

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kind=""
steps=()
for argument in "$@"; do
    case "$argument" in
        --containers | --processes) kind=${argument#--} ;;
        --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
        kill | pause | cut | leader | leaders-half | roll | roll-drain | scale) steps+=("$argument") ;;
        *) say "drill: $argument is neither an option nor a step; --help lists them"; exit 2 ;;
    esac
done
[ "${#steps[@]}" -gt 0 ] || steps=(kill pause cut leader leaders-half roll)
if [ -z "$kind" ]; then
    kind=containers
    if ! docker info >/dev/null 2>&1; then
        kind=processes
        say "no Docker engine answers: containers are skipped, and the nodes are processes"
    fi
fi

# A network of its own is made by starting anew in one.
own_network=${DRILL_NETWORK:-no}
if [ "$kind" = processes ] && [ -z "${DRILL_NETWORK:-}" ]; then
    for own in "unshare --net" "unshare --user --map-root-user --net"; do
        read -ra own <<<"$own"
        if "${own[@]}" ip link add name probe type bridge 2>/dev/null; then
            DRILL_NETWORK=yes exec "${own[@]}" bash "${BASH_SOURCE[0]}" --processes "${steps[@]}"
        fi
    done
fi

keys=${KEYS:-5000}
away=${AWAY:-5}
patience=${PATIENCE:-120}
count=${NODES:-5}
project=${COMPOSE_PROJECT_NAME:-$(basename "$folder" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}
program=${JUMPGATE:-$(command -v jumpgate || true)}
nodes=()
work=$(mktemp -d)
writer=""
broken=0
table=""

# shellcheck source=lib.sh
source "$folder/deploy/lib.sh"
# shellcheck source=nodes.sh
source "$folder/deploy/nodes.sh"

clean_up() {
    : >"$work/stop"
    if [ -n "$writer" ]; then wait "$writer" || true; fi
    "${kind}_end"
    rm -rf "$work"
}
trap clean_up EXIT

# Does something to nodes: act VERB NODE...
act() { "${kind}_$1" "${@:2}"; }
jumpgate() { "$program" "$@"; }

# Every record that was loaded, as the cluster has it now: key and value, a line each.
records() { jumpgate export --prefix drill/data/ --timeout 30s 2>/dev/null | key_and_value; }
key_and_value() { sed -n 's/^{"key":"\([^"]*\)","value":"\([^"]*\)".*/\1 \2/p'; }

# Whether every node sees the cluster whole.
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

# Adds a row to the table: row NAME START NOTICED LOST LOST_AFTER SYNCED.
row() {
    local gap ok failed synced=$6
    read -r gap ok failed <<<"$(writes_since "$2")"
    if [ "$3" = no ] || [ "$4" != 0 ] || [ "$5" != 0 ] || [ "$synced" = never ]; then broken=1; fi
    # Whoever is told to stop, or to leave, does so without anybody's loss.
    if [ "$3" = planned ] && [ "$failed" != 0 ]; then broken=1; fi
    if [ "$synced" != never ]; then synced="$synced ms"; fi
    table+="| $1 | $3 | $gap ms | $ok | $failed | $keys | $4 | $5 | $synced |"$'\n'
}

# fault NAME BREAK REPAIR NODE...: breaks nodes, and repairs them.
fault() {
    local start seen=yes lost synced
    say "$1"
    start=$(now)
    act "$2" "${@:4}"
    if [ "$2" != kill ]; then sleep "$away"; fi
    noticed || seen=no
    lost=$(differences)
    act "$3" "${@:4}"
    synced=$(until_whole) || synced=never
    row "$1" "$start" "$seen" "$lost" "$(differences)" "$synced"
}

# plan NAME COMMAND...: something that operators do, and nobody should notice.
plan() {
    local start lost=0 synced
    say "$1"
    start=$(now)
    "${@:2}" || broken=1
    synced=$(until_whole) || synced=never
    row "$1" "$start" planned "$lost" "$(differences)" "$synced"
}

# A sixth container joins, and leaves again: as docs/operations.md says, with copies of both files.
scale() {
    local six=$work/six end=$((SECONDS + patience))
    mkdir "$six"
    chmod 755 "$work" "$six"
    awk '{ print } /^  n5:/ { last = 1 } last && /ports:/ { last = 0
        print "\n  n6:\n    <<: *node\n    environment: {JUMPGATE_NODE: n6}\n    ports: [\"127.0.0.1:7406:7501\"]" }' \
        "$folder/docker-compose.yml" >"$six/docker-compose.yml"
    { cat "$folder/cluster.toml"; echo; awk '/^\[\[node\]\]/ { node++ } node == 5' "$folder/cluster.toml" | sed 's/n5/n6/; s/7405/7406/'; } \
        >"$six/cluster.toml"
    chmod 644 "$six/cluster.toml"
    COMPOSE_FILE=$six/docker-compose.yml containers_roll || return 1
    COMPOSE_PROJECT_NAME=$project JUMPGATE_IMAGE=$(docker inspect "$(container n1)" --format '{{.Config.Image}}') \
        compose -f "$six/docker-compose.yml" up -d --no-deps n6 >/dev/null 2>&1 || return 1
    nodes+=(n6)
    until jumpgate node add n6 --yes >&2; do
        sleep 1
        [ "$SECONDS" -lt "$end" ] || return 1
    done
    wait_until_whole "after n6 was added" || return 1
    say "six nodes; $(differences) records missing or altered"
    jumpgate node remove n6 --yes >&2 || return 1
    unset 'nodes[-1]'
    wait_until_whole "after n6 was removed" || return 1
    docker stop "$(container n6)" >/dev/null
    docker rm "$(container n6)" >/dev/null
    # With the file of five nodes again.
    containers_roll
}

compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }

do_step() {
    local one gone
    case "$1" in
        kill)
            mapfile -t gone < <(followers | head -n "$half")
            fault "kill ${gone[*]} at once" kill start "${gone[@]}"
            ;;
        pause)
            one=$(followers | head -n 1)
            fault "pause $one for $away s" pause resume "$one"
            ;;
        cut)
            if [ "$can_cut" = no ]; then
                say "skipped: nodes that share loopback can't be cut off"
                return
            fi
            one=$(followers | sed -n 2p)
            fault "cut $one off the network for $away s" cut join "$one"
            ;;
        leader)
            one=$(leader)
            fault "kill the leader, $one" kill start "$one"
            ;;
        leaders-half)
            one=$(leader)
            mapfile -t gone < <(echo "$one"; followers | head -n $((half - 1)))
            fault "kill half with the leader: ${gone[*]}" kill start "${gone[@]}"
            ;;
        roll) plan "restart all in turn" act roll ;;
        roll-drain) plan "restart all in turn, each drained" act roll --drain ;;
        scale)
            if [ "$kind" = processes ]; then
                say "skipped: only containers get a sixth node"
                return
            fi
            plan "a sixth node joins and leaves" scale
            ;;
    esac
}

"${kind}_begin"
export JUMPGATE_URL
half=$((${#nodes[@]} / 2))
say "waiting for ${#nodes[@]} nodes, which are $kind"
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
for step in "${steps[@]}"; do do_step "$step"; done

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
