#!/usr/bin/env bash
# Gives containers what they should not get, and looks what they make of it: `deploy/bad-input.sh [IMAGE]` (jumpgate by
# default, or JUMPGATE_IMAGE). Each try must end in a line of the log that says what is wrong and, where the cause goes away, in a
# node that serves. It prints a table, and ends with 1 if one try went wrong.
#
# It founds a cluster of three containers of its own on a network of its own, and removes all of it at the end. It needs bash, a
# Docker engine, and for clocks that are apart Debian's libfaketime (LIBFAKETIME=path otherwise); where that is missing this
# try is skipped. It takes about a minute.
set -euo pipefail

case "${1:-}" in
    --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    -*) echo "usage: deploy/bad-input.sh [IMAGE]" >&2; exit 2 ;;
esac
image=${1:-${JUMPGATE_IMAGE:-jumpgate}}
faketime=${LIBFAKETIME:-/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1}
patience=30
own=jumpgate-bad-input-$$
work=$(mktemp -d)
broken=0
table=""

say() { printf '%s\n' "$*" >&2; }
die() { say "bad-input: $*"; exit 1; }

# shellcheck disable=SC2046 # one word for each container
clean_up() {
    docker rm -f $(docker ps -aq --filter "label=$own") >/dev/null 2>&1 || true
    docker network rm "$own" >/dev/null 2>&1 || true
    docker volume rm "$own" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

# Three nodes; clients come in by n1's port alone.
configuration() {
    printf '[cluster]\nname = "bad-input"\npartitions = 64\n[security]\nsecret_file = "/run/jumpgate/secret"\n'
    for node in n1 n2 n3; do
        printf '[[node]]\nid = "%s"\npulse = "%s:8501"\nstream = "%s:9501"\ngateway = "%s:7501"\n' $node $node $node $node
        printf 'bind_pulse = "0.0.0.0:8501"\nbind_stream = "0.0.0.0:9501"\nbind_gateway = "0.0.0.0:7501"\n'
    done
}

# A container, hardened as in docker-compose.yml: box NAME OPTION... [-- ARGUMENT...]
box() {
    local name=$1 options=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    if [ $# -gt 0 ]; then shift; fi
    docker run -d --label "$own" --name "$own-$name" --read-only --cap-drop ALL --security-opt no-new-privileges \
        "${options[@]}" "$image" "$@" >/dev/null
}

# What any node is given, and what n1, n2 and n3 are.
given() { printf '%s\n' --volume "$work/cluster.toml:/etc/jumpgate/cluster.toml:ro" --volume "$own:/run/jumpgate:ro"; }
member() {
    mapfile -t options < <(given)
    box "$1" --network "$own" --network-alias "$1" --env "JUMPGATE_NODE=$1" "${options[@]}" "${@:2}"
}

# What a container has said. A list of what is missing belongs to its heading.
log() { docker logs "$own-$1" 2>&1 | sed 's/\x1b\[[0-9;]*m//g' | sed -z 's/:\n  --/: --/'; }
drop() { docker rm -f "$own-$1" >/dev/null; }
client() { docker exec "$own-n1" /usr/local/bin/jumpgate "$1" --url http://127.0.0.1:7501 "${@:2}"; }

# Tries a command again and again until it succeeds: eventually COMMAND...
eventually() {
    local end=$((SECONDS + patience))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.3
    done
}

says() { log "$1" | grep -E "$2" >/dev/null; }
ended() { [ "$(docker inspect "$own-$1" --format '{{.State.Status}}')" = exited ]; }
healthy() { docker exec "$own-$1" /usr/local/bin/jumpgate health --url http://127.0.0.1:7501 --timeout 2s; }
# What is in sync by n1's word, and what was written at the beginning is there.
whole() {
    local status
    status=$(client status --json --timeout 2s) || return 1
    [ "$(grep -cE '^ *"role": "(leader|follower)"' <<<"$status")" = 3 ] \
        && ! grep -qE '"voter": false|"learning": [1-9]' <<<"$status" \
        && grep -q '"full": 64' <<<"$status" && [ "$(client get kept)" = value ]
}
# The same once the node $1 has begun a new life: what was seen of the one before doesn't count.
whole_with() { eventually healthy "$1" && eventually whole; }

# Adds a row: row WHAT VERDICT CONTAINER LINE HEALED. LINE is a pattern; the first line of the log that fits is shown.
row() {
    local line
    line=$(log "$3" | grep -E "$4" | sed -E 's/^[0-9TZ:.-]+ +//; s/ +/ /g; s/\|/\\|/g' | sed -n 1p) || true
    if [ "$2" != good ] || [ -z "$line" ]; then
        broken=1
        say "$1: the log ends with"
        log "$3" | tail -n 5 >&2
    fi
    table+="| $1 | $2 | ${line:-nothing} | $5 |"$'\n'
}

# A node that must end with exit code CODE and say a line: refused WHAT CODE LINE OPTION... The cluster must not mind.
refused() {
    local what=$1 code=$2 line=$3 verdict=good
    shift 3
    say "$what"
    box one "$@"
    eventually ended one || verdict="still runs"
    [ "$verdict" != good ] || [ "$(docker inspect "$own-one" --format '{{.State.ExitCode}}')" = "$code" ] \
        || verdict="exit code $(docker inspect "$own-one" --format '{{.State.ExitCode}}')"
    says one "$line" || verdict="no clear line"
    row "$what" "$verdict" one "$line" "exit code $code"
    drop one
}

docker image inspect "$image" >/dev/null 2>&1 || die "there is no image $image; docker build -t $image . makes it"
configuration >"$work/cluster.toml"
chmod 755 "$work"
chmod 644 "$work/cluster.toml"
docker network create "$own" >/dev/null
docker volume create "$own" >/dev/null
mapfile -t given < <(given)

# --- the configuration
refused "a node id that isn't in the file" 2 'there is no node "n9"; the nodes are n1, n2, n3' \
    --env JUMPGATE_NODE=n9 "${given[@]}"
refused "no node id" 2 'JUMPGATE_NODE must say which node this is' "${given[@]}"
refused "no file mounted" 2 'cannot read the configuration /etc/jumpgate/cluster.toml: No such file' \
    --env JUMPGATE_NODE=n1 --volume "$own:/run/jumpgate:ro"
mkdir "$work/folder"
refused "the file isn't there, so the engine mounts an empty folder" 2 'cannot read the configuration /etc/jumpgate/cluster.toml: Is a directory' \
    --env JUMPGATE_NODE=n1 --volume "$work/folder:/etc/jumpgate/cluster.toml:ro"
install -m 600 "$work/cluster.toml" "$work/closed.toml"
refused "a file that the program's user may not read" 2 'cannot read the configuration /etc/jumpgate/cluster.toml: Permission denied' \
    --env JUMPGATE_NODE=n1 --volume "$work/closed.toml:/etc/jumpgate/cluster.toml:ro"
sed 's/^pulse/pulze/' "$work/cluster.toml" >"$work/broken.toml"
chmod 644 "$work/broken.toml"
refused "a misspelt setting" 2 'cluster.toml:[0-9]+.*pulze' \
    --env JUMPGATE_NODE=n1 --volume "$work/broken.toml:/etc/jumpgate/cluster.toml:ro"

# --- the secret
refused "no secret in the volume" 2 'secret_file: /run/jumpgate/secret.*No such file' --env JUMPGATE_NODE=n1 "${given[@]}"

say "no secret in the volume, and later there is one"
verdict=good
member n1 --restart unless-stopped
eventually says n1 'secret_file' || verdict="no clear line"
box secret --network none --volume "$own:/run/jumpgate" -- secret /run/jumpgate/secret
eventually says n1 'nodes prove to each other' || verdict="not healed"
row "the same with a restart policy; then the secret is made" "$verdict" n1 'secret_file.*No such file' "starts"

# --- names that don't resolve yet: n1 runs alone
say "names that don't resolve yet"
verdict=good
eventually says n1 "n3:8501 doesn't resolve" || verdict="no clear line"
member n2
member n3
eventually healthy n1 || verdict="not healed"
eventually client put kept value || verdict="not healed"
eventually whole || verdict="not healed"
row "peers whose names don't resolve yet" "$verdict" n1 "n3:8501 doesn't resolve" "the cluster is founded when they come"

# --- secrets that can't be used, beside a running cluster
for mode in 600 644; do
    printf '%064d\n' 1 >"$work/secret-$mode"
    chmod "$mode" "$work/secret-$mode"
done
printf 'short\n' >"$work/short"
chown 65532:65532 "$work/secret-644" "$work/short"
chmod 600 "$work/short"
with_secret() { printf '%s\n' --env JUMPGATE_NODE=n1 "${given[@]:0:2}" --volume "$work/$1:/run/jumpgate/secret:ro"; }
mapfile -t options < <(with_secret secret-644)
refused "a secret that everybody may read" 2 'secret_file: /run/jumpgate/secret.*(mode|readable)' "${options[@]}"
mapfile -t options < <(with_secret secret-600)
refused "a secret that the program's user may not read" 2 'secret_file: /run/jumpgate/secret.*Permission denied' "${options[@]}"
mapfile -t options < <(with_secret short)
refused "a secret of five bytes" 2 'secret_file: /run/jumpgate/secret.*(16|short)' "${options[@]}"

# --- a port that is taken: two containers in one network namespace
refused "a port that is taken" 1 'port 8501 is taken \(pulse of node n1, setting \[\[node\]\] pulse' \
    --network "container:$own-n1" --env JUMPGATE_NODE=n1 "${given[@]}"

# --- two containers with one id
leader() { client status --json --timeout 2s | sed -n 's/^ *"leader": "\([^"]*\)".*/\1/p'; }
one_is_told() { for node in n1 n2 n3; do if says "$node" "$1"; then return; fi; done; return 1; }
say "a container with another's id, under a name of its own"
verdict=good
line='others look for n2 at n2:8501, which is [^ ]+ and no address of this machine.* a second process is n2'
mapfile -t options < <(given)
box copy --network "$own" --network-alias n6 --env JUMPGATE_NODE=n2 "${options[@]}"
eventually says copy "$line" || verdict="no clear line"
client put --timeout 20s kept value >/dev/null || verdict="no write meanwhile"
whole || verdict="the cluster minds"
row "a container with another's id, under a name of its own" "$verdict" copy "$line" "it never joins, and the cluster doesn't mind"
drop copy

say "two containers with one id and one name"
verdict=good
line='a second process \([0-9a-f]+\) says that it is n[23], which is alive: stop one of them'
first=$(leader)
for taken in n2 n3; do if [ "$taken" != "$first" ]; then break; fi; done
mapfile -t options < <(given)
box twin --network "$own" --network-alias "$taken" --env "JUMPGATE_NODE=$taken" "${options[@]}"
patience=60 eventually one_is_told "$line" || verdict="no clear line"
client put --timeout 20s kept value >/dev/null || verdict="no write meanwhile"
teller=n1
for node in n1 n2 n3; do if says "$node" "$line"; then teller=$node; fi; done
drop twin
eventually whole || verdict="not healed"
row "two containers with one id and one name" "$verdict" "$teller" "$line" "writes go on; whole again when one of them is gone"

# --- clocks that are apart: an hour ahead and an hour behind, for n2 and n3
if [ -f "$faketime" ]; then
    say "clocks that are apart"
    verdict=good
    for pair in n2=+3600 n3=-3600; do
        node=${pair%%=*}
        drop "$node"
        member "$node" --env "FAKETIME=${pair#*=}" --env FAKETIME_DONT_FAKE_MONOTONIC=1 \
            --env LD_PRELOAD=/lib/libfaketime.so --volume "$faketime:/lib/libfaketime.so:ro"
        whole_with "$node" || verdict="$node doesn't join"
    done
    ahead=$(($(date -u -d "$(log n2 | grep -m 1 -o '^20[^ ]*Z')" +%s) - $(date +%s)))
    [ "$ahead" -gt 3000 ] || verdict="the clock wasn't changed"
    client put clocks one >/dev/null || verdict="no write"
    [ "$(client get clocks)" = one ] || verdict="no read"
    row "clocks an hour ahead and an hour behind" "$verdict" n2 'n2 answers at' "both nodes join and serve: a node goes by its own time alone"
else
    say "skipped: clocks that are apart, because $faketime isn't there (Debian's package libfaketime)"
fi

printf '| given | verdict | what the log says | and then |\n|---|---|---|---|\n%s' "$table"
[ "$broken" = 0 ] || die "not every try ended as it should"
