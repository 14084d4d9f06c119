# What the scripts of this folder share: `source` it. $program is the jumpgate to ask, "${nodes[@]}" names all nodes, and
# $patience is for how many seconds a node is waited for.
# shellcheck shell=bash disable=SC2034,SC2120,SC2154 # what is set, given and used elsewhere

# Where the gateways of the Compose project are.
default_urls=http://127.0.0.1:7401,http://127.0.0.1:7402,http://127.0.0.1:7403,http://127.0.0.1:7404,http://127.0.0.1:7405

# Whether every node takes part, votes and has all of its copies, as the first gateway that answers sees it, or --url's. Nodes
# that are configured and don't belong to the cluster, or not yet, don't count.
whole() {
    "$program" status --json --timeout 2s "$@" 2>/dev/null | awk -v nodes="${#nodes[@]}" '
        $1 == "\"total\":" && total == "" { total = $2 + 0 }
        $1 == "\"full\":" && full == "" { full = $2 + 0 }
        $1 == "\"role\":" { takes_part = $2 ~ /"(leader|follower)"/ }
        $1 == "\"voter\":" && takes_part { present++; if ($2 ~ /false/) missing++ }
        /"draining": true/ || /"learning": [1-9]/ { missing++ }
        END { exit !(total > 0 && total == full && present == nodes && !missing) }'
}

# Whether a node holds nothing. Each node's name comes before its numbers, and those before the names of its peers.
is_empty() {
    "$program" status --json --timeout 2s 2>/dev/null | awk -v name="\"$1\"," '
        $1 == "\"name\":" { mine = $2 == name }
        mine && /"(primaries|in_sync|learning)":/ { seen++; held += $2 }
        END { exit !(seen == 3 && held == 0) }'
}

# Fails where the cluster doesn't become whole; $1 says when that was.
wait_until_whole() {
    local end=$((SECONDS + patience))
    until whole; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "the cluster is not in sync after $patience s: $1; nothing more is restarted" >&2
            return 1
        fi
        sleep 0.5
    done
}

# Restarts all nodes in turn: roll RESTART [--drain]. RESTART is a command that restarts the node that is its argument.
roll() {
    local restart=$1 drain=${2:-} node start
    wait_until_whole "before the first node" || return 1
    for node in "${nodes[@]}"; do
        start=$SECONDS
        if [ "$drain" = --drain ]; then
            "$program" node drain "$node" --yes >/dev/null || return 1
            # It only begins with that.
            until is_empty "$node"; do
                sleep 0.2
                [ $((SECONDS - start)) -lt "$patience" ] || { echo "$node still holds copies after $patience s" >&2; return 1; }
            done
        fi
        "$restart" "$node" || return 1
        # What was seen before the restart must not pass for the state after it.
        sleep 2
        if [ "$drain" = --drain ]; then
            until "$program" node add "$node" --yes >/dev/null; do
                sleep 1
                [ $((SECONDS - start)) -lt "$patience" ] || return 1
            done
        fi
        wait_until_whole "after $node" || return 1
        echo "$node restarted and in sync, $((SECONDS - start)) s"
    done
}
