#!/usr/bin/env bash
# Has tools read what is in this folder, and the Compose file: `deploy/check.sh [--install]`. Each tool is first shown a broken copy,
# which it must refuse: a check that can't fail would say nothing. A tool that isn't there is skipped, with a line that says so.
#
# | what | tool | where it comes from |
# |---|---|---|
# | the scripts | shellcheck | Debian's package |
# | docker-compose.yml | docker compose, docker-compose: both, where both are there | Debian's packages |
# | kubernetes.yaml | kubernetes-validate, with the schemas of Kubernetes | PyPI |
# | the cluster.toml in it | jumpgate on the path, or JUMPGATE=path | cargo build |
# | jumpgate.service | systemd-analyze verify | systemd |
#
#   --install   gets kubernetes-validate into a virtual environment below target/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
    "") ;;
    --install)
        if ! python3 -m venv target/kubernetes-validate || ! target/kubernetes-validate/bin/pip install -q \
            --disable-pip-version-check kubernetes-validate==1.37.0; then
            rm -rf target/kubernetes-validate
            echo "kubernetes-validate could not be installed" >&2
        fi
        ;;
    --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    *) echo "usage: deploy/check.sh [--install]" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PATH="$PWD/target/kubernetes-validate/bin:$PATH"
program=${JUMPGATE:-$(command -v jumpgate || true)}
failed=0

skip() { echo "skipped: $1"; }

# good WHAT COMMAND...: what has to be accepted.
good() {
    local what=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        echo "good: $what"
    else
        echo "WRONG: $what"
        cat "$work/output"
        failed=1
    fi
}

# refuses WHAT COMMAND...: a broken copy, which has to be refused.
refuses() {
    local what=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        echo "WRONG: a broken copy passes as $what"
        failed=1
    fi
}

# broken FILE EXPRESSION: a copy of a file that sed has changed, and its path.
broken() {
    local copy=$work/broken/${1##*/}
    mkdir -p "$work/broken"
    sed "$2" "$1" >"$copy"
    if cmp -s "$1" "$copy"; then
        echo "$2 changes nothing in $1" >&2
        return 1
    fi
    echo "$copy"
}

scripts() { shellcheck --severity=warning --external-sources --source-path=deploy "$@"; }
if command -v shellcheck >/dev/null; then
    copy=$(broken deploy/base-images.sh 's/^tag=/tug=/')
    refuses "a script" scripts "$copy"
    good "scripts, by shellcheck" scripts deploy/*.sh .ci/run tests/*.sh benches/*.sh
else
    skip "scripts, because shellcheck isn't there"
fi

for compose in "docker compose" docker-compose; do
    read -ra compose <<<"$compose"
    if "${compose[@]}" version >/dev/null 2>&1; then
        copy=$(broken docker-compose.yml 's/depends_on:/depend_on:/')
        refuses "a Compose file" "${compose[@]}" -f "$copy" config -q
        good "docker-compose.yml, by ${compose[*]} $("${compose[@]}" version --short)" "${compose[@]}" config -q
    else
        skip "docker-compose.yml by ${compose[*]}, because that isn't there"
    fi
done

if command -v kubernetes-validate >/dev/null; then
    copy=$(broken deploy/kubernetes.yaml 's/replicas: 5/replicas: five/')
    refuses "manifests" kubernetes-validate --strict "$copy"
    copy=$(broken deploy/kubernetes.yaml 's/readinessProbe:/readyProbe:/')
    refuses "manifests" kubernetes-validate --strict "$copy"
    good "kubernetes.yaml, by kubernetes-validate" kubernetes-validate --strict deploy/kubernetes.yaml
else
    skip "kubernetes.yaml, because kubernetes-validate isn't there (--install gets it)"
fi

# A configuration that can be read is refused for the node's id alone.
configuration() {
    "$program" serve --config "$1" --node none >"$work/said" 2>&1 || true
    cat "$work/said"
    grep -q 'there is no node "none"; the nodes are jumpgate-0, jumpgate-1, jumpgate-2, jumpgate-3, jumpgate-4$' "$work/said"
}
if [ -n "$program" ]; then
    awk '/^  cluster.toml: \|/ { inside = 1; next } /^---/ { inside = 0 } inside { sub(/^    /, ""); print }' \
        deploy/kubernetes.yaml >"$work/cluster.toml"
    copy=$(broken "$work/cluster.toml" 's/^pulse/pulze/')
    refuses "a configuration" configuration "$copy"
    good "the cluster.toml in kubernetes.yaml, by jumpgate" configuration "$work/cluster.toml"
else
    skip "the cluster.toml in kubernetes.yaml, because jumpgate isn't there"
fi

# Some of what it finds it only says, so that it must say nothing. The program needn't be installed here.
unit() {
    sed 's|^ExecStart=/usr/local/bin/jumpgate|ExecStart=/bin/true|' "$1" >"$work/jumpgate.service"
    systemd-analyze verify --man=no "$work/jumpgate.service" >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
    grep jumpgate.service "$work/said" && return 1
    return 0
}
if command -v systemd-analyze >/dev/null; then
    copy=$(broken deploy/jumpgate.service 's/^RestartSec=1s/RestartSecs=1s/')
    refuses "a unit" unit "$copy"
    copy=$(broken deploy/jumpgate.service 's/^MemoryMax=4G/MemoryMax=much/')
    refuses "a unit" unit "$copy"
    good "jumpgate.service, by systemd-analyze" unit deploy/jumpgate.service
else
    skip "jumpgate.service, because systemd-analyze isn't there"
fi

exit "$failed"
