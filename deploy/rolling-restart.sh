#!/usr/bin/env bash
# Restarts the nodes of a Compose project one after the other, each when the one before is in sync again. With a new image
# under the same name that is an upgrade: `docker compose build && deploy/rolling-restart.sh`.
#
#   --drain             moves a node's copies elsewhere first, and back afterwards: slower, and never a copy less
#   PATIENCE=300        seconds that a node may take; then this ends with 1 and touches no further node
#   COMPOSE, JUMPGATE   the commands: docker compose (or docker-compose), jumpgate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

drain=no
case "${1:-}" in
    "") ;;
    --drain) drain=yes ;;
    *) echo "usage: deploy/rolling-restart.sh [--drain]" >&2; exit 2 ;;
esac
program=${JUMPGATE:-jumpgate}
patience=${PATIENCE:-300}
if [ -z "${COMPOSE:-}" ]; then
    if docker compose version >/dev/null 2>&1; then COMPOSE="docker compose"; else COMPOSE=docker-compose; fi
fi
read -ra compose <<<"$COMPOSE"
default_urls=http://127.0.0.1:7401,http://127.0.0.1:7402,http://127.0.0.1:7403,http://127.0.0.1:7404,http://127.0.0.1:7405
export JUMPGATE_URL=${JUMPGATE_URL:-$default_urls}

mapfile -t nodes < <("${compose[@]}" config --services | grep -E '^n[0-9]+$' | sort)

# shellcheck source=lib.sh
source deploy/lib.sh

wait_until_whole() {
    local end=$((SECONDS + patience))
    until whole; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "the cluster is not in sync after $patience s: $1; nothing more is restarted" >&2
            exit 1
        fi
        sleep 0.5
    done
}

wait_until_whole "before the first node"
for node in "${nodes[@]}"; do
    start=$SECONDS
    if [ "$drain" = yes ]; then "$program" node drain "$node" --yes; fi
    # Recreates the container, so that a new image or configuration counts; it hands over what it leads while it stops.
    "${compose[@]}" up -d --no-deps --force-recreate "$node" >/dev/null 2>&1
    # What was seen before the restart must not pass for the state after it.
    sleep 2
    if [ "$drain" = yes ]; then
        until "$program" node add "$node" --yes; do sleep 1; [ $((SECONDS - start)) -lt "$patience" ] || exit 1; done
    fi
    wait_until_whole "after $node"
    echo "$node restarted and in sync, $((SECONDS - start)) s"
done
