# What the scripts of this folder share: `source` it. $program is the jumpgate to ask, and "${nodes[@]}" names all nodes.

# Whether every node takes part, votes and has all of its copies, as the first gateway that answers sees it, or --url's.
whole() {
    local status total full present
    status=$("$program" status --json --timeout 2s "$@" 2>/dev/null) || return 1
    total=$(sed -n 's/^ *"total": \([0-9]*\),*$/\1/p' <<<"$status" | head -n 1)
    full=$(sed -n 's/^ *"full": \([0-9]*\),*$/\1/p' <<<"$status" | head -n 1)
    present=$(grep -cE '^ *"role": "(leader|follower)"' <<<"$status" || true)
    [ "${total:-0}" -gt 0 ] && [ "$total" = "$full" ] && [ "$present" = "${#nodes[@]}" ] \
        && ! grep -qE '"voter": false|"learning": [1-9]' <<<"$status"
}
