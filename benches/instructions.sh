#!/usr/bin/env bash
# Instructions per operation of the pure core, compared with benches/baseline.txt. Unlike times they hardly depend on the
# machine, and not at all on what else it does, so a run can tell a change of a few percent.
#
#   benches/instructions.sh            compare; fails where an operation takes more than 5 % more than the baseline says
#   benches/instructions.sh --update   write the baseline anew, for a commit that says why
#
# Needs valgrind (Debian: valgrind). The numbers are those of one version of rustc, named in the baseline: with another one
# nothing is compared.
set -euo pipefail
cd "$(dirname "$0")/.."

baseline=benches/baseline.txt
few=1000 many=11000 worse=5

command -v valgrind >/dev/null || { echo "valgrind is missing" >&2; exit 2; }
rustc=$(rustc --version)
if [ "${1:-}" != --update ] && ! grep -qxF "# $rustc" "$baseline"; then
    echo "not compared: the baseline is of$(grep -m 1 '^# rustc' "$baseline" | tr -d '#'), and this is $rustc"
    exit 0
fi

# The dependencies as the tests have them built already; the crate itself as a release is, but for link-time optimisation.
program=$(cargo build --locked --bench instructions --message-format=json \
    --config 'profile.dev.package.jumpgate.opt-level=3' \
    --config 'profile.dev.package.jumpgate.debug-assertions=false' \
    --config 'profile.dev.package.jumpgate.overflow-checks=false' \
    --config 'profile.dev.package.jumpgate.debug=false' </dev/null |
    sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$program" ] || { echo "the program was not built" >&2; exit 1; }

# Instructions that the program takes for $2 times the operation $1. The same environment for everybody: its size moves
# the stack.
count() {
    env -i valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        awk '/I *refs:/ { gsub(",", "", $NF); print $NF }'
}

measure() {
    local operation before after
    for operation in $("$program"); do
        before=$(count "$operation" "$few")
        after=$(count "$operation" "$many")
        echo "$operation $(((after - before) / (many - few)))"
    done
}

if [ "${1:-}" = --update ]; then
    {
        echo "# Instructions per operation; benches/instructions.sh --update writes this file."
        echo "# $rustc"
        measure
    } >"$baseline.new"
    mv "$baseline.new" "$baseline"
    cat "$baseline"
    exit
fi

# The columns: operation, instructions now, in the baseline, difference in percent.
measure | awk -v worse=$worse -v baseline="$baseline" '
    BEGIN { while ((getline line < baseline) > 0) if (line !~ /^#/) { split(line, field, " "); known[field[1]] = field[2] } }
    !($1 in known) { printf "%-36s %8d, which is not in the baseline\n", $1, $2; missing++; next }
    {
        percent = 100 * ($2 - known[$1]) / known[$1]
        printf "%-36s %8d %8d %+6.1f %%%s\n", $1, $2, known[$1], percent, (percent > worse ? "  WORSE" : "")
        if (percent > worse) failed++
    }
    END {
        if (missing) print "write the baseline anew: benches/instructions.sh --update"
        if (failed) print failed " operations take more than " worse " % more instructions than the baseline says"
        exit failed + missing > 0
    }'
