#!/usr/bin/env bash
# Restarts the nodes of a Compose project one after the other, each when the one before is in sync again. With a new image
# under the same name that is an upgrade: `docker compose build && deploy/rolling-restart.sh`. Services of the file that
# have no running container are left alone.
#
#   --drain             moves a node's copies elsewhere first, and back afterwards: slower, and never a copy less
#   PATIENCE=300        seconds that a node may take; then this ends with 1 and touches no further node
#   COMPOSE, JUMPGATE   the commands: docker compose (or docker-compose), jumpgate
#   JUMPGATE_URL=…      the gateways, separated by commas
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
    "" | --drain) ;;
    --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "usage: deploy/rolling-restart.sh [--drain]" >&2; exit 2 ;;
esac
program=${JUMPGATE:-jumpgate}
patience=${PATIENCE:-300}
if [ -z "${COMPOSE:-}" ]; then
    if docker compose version >/dev/null 2>&1; then COMPOSE="docker compose"; else COMPOSE=docker-compose; fi
fi
read -ra compose <<<"$COMPOSE"

# shellcheck source=lib.sh
source deploy/lib.sh
export JUMPGATE_URL=${JUMPGATE_URL:-$default_urls}

nodes=()
for service in $("${compose[@]}" config --services | grep -E '^n[0-9]+$' | sort); do
    if [ -n "$("${compose[@]}" ps -q "$service" 2>/dev/null)" ]; then nodes+=("$service"); fi
done
[ "${#nodes[@]}" -gt 0 ] || { echo "no node of this project runs; docker compose up starts them" >&2; exit 1; }

# Recreates the container, so that a new image or configuration counts; it hands over what it leads while it stops.
recreate() { "${compose[@]}" up -d --no-deps --force-recreate "$1" >/dev/null 2>&1; }

roll recreate "$@"
