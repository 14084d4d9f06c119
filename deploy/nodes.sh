# What the drill does to nodes, for nodes of two kinds: `source` it. All take names of nodes as arguments.
#
# | function | does |
# |---|---|
# | KIND_begin | finds the nodes, or starts them: sets nodes, JUMPGATE_URL and can_cut |
# | KIND_kill, KIND_start | SIGKILL to all at once; starts them again, empty |
# | KIND_pause, KIND_resume | stops them without their knowledge; lets them go on |
# | KIND_cut, KIND_join | takes them off the network; brings them back to it |
# | KIND_roll | restarts all nodes in turn, each when the one before is in sync again; --drain empties each before |
# | KIND_end | ends what was started |
#
# "containers" are those of a running Compose project, $project. "processes" are the drill's own, $count of them: hosts of
# their own in network namespaces where $own_network is yes, else on loopback, where nobody can be cut off. Their files are
# in $work; $program is the jumpgate to run.
# shellcheck shell=bash disable=SC2034,SC2154 # variables of who sources it, and for it

containers_begin() {
    mapfile -t nodes < <(docker ps -a --filter "label=com.docker.compose.project=$project" \
        --format '{{.Label "com.docker.compose.service"}}' | grep -E '^n[0-9]+$' | sort -u)
    [ "${#nodes[@]}" -ge 3 ] \
        || die "the project $project has no containers n1, n2, n3 …; start them with docker compose up, or try --processes"
    if [ -z "$program" ]; then
        program=$work/jumpgate
        docker cp "$(container "${nodes[0]}"):/usr/local/bin/jumpgate" "$program" >/dev/null
    fi
    JUMPGATE_URL=${JUMPGATE_URL:-$default_urls}
    network=$(docker inspect "$(container "${nodes[0]}")" \
        --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}')
    can_cut=yes
}

# The container of a node.
container() {
    docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1"
}

# Runs a command of docker for the containers of nodes, in one go: containers VERB NODE...
containers() {
    local ids=() verb=$1 node
    shift
    for node in "$@"; do ids+=("$(container "$node")"); done
    docker "$verb" "${ids[@]}" >/dev/null
}

containers_kill() { containers kill "$@"; }
containers_start() { containers start "$@"; }
containers_pause() { containers pause "$@"; }
containers_resume() { containers unpause "$@"; }

containers_cut() {
    local node
    for node in "$@"; do docker network disconnect "$network" "$(container "$node")"; done
}

# Perhaps with another address.
containers_join() {
    local node
    for node in "$@"; do docker network connect --alias "$node" "$network" "$(container "$node")"; done
}

containers_roll() {
    local image
    image=$(docker inspect "$(container "${nodes[0]}")" --format '{{.Config.Image}}')
    COMPOSE_PROJECT_NAME=$project JUMPGATE_IMAGE=$image JUMPGATE=$program PATIENCE=$patience \
        "$folder/deploy/rolling-restart.sh" "$@" >&2
}

containers_end() { :; }

# The pids of the nodes and of what holds their namespaces, by name.
declare -A pids=() hosts=()

processes_begin() {
    local place node urls=()
    [ -n "$program" ] || die "there is no jumpgate on the path; JUMPGATE=path names one"
    for place in $(seq "$count"); do nodes+=("n$place"); done
    if [ "$own_network" = yes ]; then
        ip link set lo up
        ip link add name switch type bridge
        ip link set switch up
        ip address add 10.0.0.254/24 dev switch
        for place in $(seq "$count"); do
            node=n$place
            unshare --net sleep infinity &
            hosts[$node]=$!
            # Until then it has the namespace of its parent.
            while [ "$(readlink "/proc/${hosts[$node]}/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
            ip link add name "to-$node" master switch type veth peer name eth0 netns "${hosts[$node]}"
            ip link set "to-$node" up
            (on_host "$node" ip link set lo up)
            (on_host "$node" ip address add "10.0.0.$place/24" dev eth0)
            (on_host "$node" ip link set eth0 up)
            urls+=("http://10.0.0.$place:7501")
        done
        # The configuration of the containers, with addresses instead of names.
        sed -E 's/"n([0-9]+):/"10.0.0.\1:/; s#http://127.0.0.1:740([0-9])#http://10.0.0.\1:7501#' \
            "$folder/cluster.toml" | awk -v count="$count" '/^\[\[node\]\]/ { node++ } node <= count' >"$work/cluster.toml"
        "$program" secret "$work/secret" 2>/dev/null
        export JUMPGATE_SECURITY_SECRET_FILE=$work/secret
        can_cut=yes
    else
        "$program" dev --nodes "$count" --port 17400 --print-config >"$work/cluster.toml"
        for place in $(seq "$count"); do urls+=("http://127.0.0.1:$((17400 + place))"); done
        can_cut=no
    fi
    JUMPGATE_URL=$(IFS=,; echo "${urls[*]}")
    processes_start "${nodes[@]}"
}

# Becomes a command on the host of a node, so it takes a process of its own.
on_host() {
    local node=$1
    shift
    if [ -n "${hosts[$node]:-}" ]; then exec nsenter --net="/proc/${hosts[$node]}/ns/net" "$@"; else exec "$@"; fi
}

processes_start() {
    local node
    for node in "$@"; do
        on_host "$node" "$program" serve --config "$work/cluster.toml" --node "$node" >>"$work/$node.log" 2>&1 &
        pids[$node]=$!
    done
}

# Sends a signal to processes of nodes, in one go: processes SIGNAL NODE...
processes() {
    local ids=() signal=$1 node
    shift
    for node in "$@"; do ids+=("${pids[$node]}"); done
    kill "-$signal" "${ids[@]}"
}

# A port is free once its process is gone.
processes_gone() {
    local node
    for node in "$@"; do wait "${pids[$node]}" 2>/dev/null || true; done
}

processes_kill() { processes KILL "$@"; processes_gone "$@"; }
processes_pause() { processes STOP "$@"; }
processes_resume() { processes CONT "$@"; }

processes_cut() {
    local node
    for node in "$@"; do ip link set "to-$node" down; done
}

processes_join() {
    local node
    for node in "$@"; do ip link set "to-$node" up; done
}

processes_restart() { processes TERM "$1"; processes_gone "$1"; processes_start "$1"; }
processes_roll() { roll processes_restart "$@" >&2; }

processes_end() {
    local id
    for id in "${pids[@]}" "${hosts[@]}"; do
        kill -KILL "$id" 2>/dev/null || true
        wait "$id" 2>/dev/null || true
    done
}
