#!/usr/bin/env bash
# What /openapi.json promises, tried with requests that are drawn from it: no server error, no answer that it doesn't describe.
#
#     bash tests/openapi.sh [JUMPGATE]        (target/debug/jumpgate)
#     SEED=7 EXAMPLES=200 bash tests/openapi.sh
#
# One seed draws the same requests each time; another one draws others.
#
# It starts `jumpgate dev` on free ports and asks the leader. The requests come from schemathesis, which is installed into a
# folder of its own, from PyPI; where that can't be, it says so and skips. Operations come last, since they may take the cluster
# apart. Server-sent events are left out: an answer that never ends is none that can be looked at here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jumpgate=$(realpath "${1:-target/debug/jumpgate}")
version=4.32.5
work=$(mktemp -d)
server=""

clean_up() {
    local status=$?
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if ! { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install -q "schemathesis==$version"; } >"$work/pip.log" 2>&1; then
    echo "skipped: schemathesis $version could not be installed, so /openapi.json was not tried"
    exit 0
fi

# The first of four ports that nobody has; the nodes take the three after it.
port=$(python3 - <<'PYTHON'
import random, socket
while True:
    first = random.randrange(10000, 30000)
    try:
        sockets = []
        for port in range(first, first + 4):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", port))
        print(first)
        break
    except OSError:
        pass
PYTHON
)
"$jumpgate" dev --nodes 3 --port "$port" >"$work/dev.log" 2>&1 &
server=$!
leader=""
for _ in $(seq 300); do
    leader=$(curl -s "http://127.0.0.1:$((port + 1))/v1/cluster" | python3 -c 'import json, sys; print(json.load(sys.stdin)["leader_url"] or "")' 2>/dev/null || true)
    if [ -n "$leader" ] && curl -sf "$leader/leaderz" >/dev/null; then break; fi
    leader=""
    sleep 0.1
done
if [ -z "$leader" ]; then
    cat "$work/dev.log" >&2
    exit 1
fi

cd "$work" # schemathesis writes where it runs

# Whoever stores something says what type it has, and is told so again by whoever reads it. A value that is drawn and called JSON
# needn't be any, and a file that is called so looks like a folder's entries: here everything stored is called bytes.
cat >"$work/hooks.py" <<'PYTHON'
import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.method in ("PUT", "POST") and case.path.startswith(("/v1/kv/{key}", "/v1/files/{path}")):
        case.headers["Content-Type"] = "application/octet-stream"
PYTHON
export SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$work

# What a schema can't say is left to other tests: which values are refused, and in what order checks are made.
draw() {
    "$work/venv/bin/st" run "$leader/openapi.json" --max-examples "${EXAMPLES:-40}" --seed "${SEED:-1}" \
        --request-timeout 60 --generation-database none --warnings off \
        --exclude-checks unsupported_method,positive_data_acceptance,negative_data_rejection,missing_required_header "$@"
}
draw --exclude-path-regex '^/v1/(admin|feed)'
draw --include-path-regex '^/v1/(admin|feed$)'
