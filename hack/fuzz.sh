#!/usr/bin/env bash
# Runs each fuzz target for a while: fuzz.sh SECONDS. Fails on the first crash; the input is then in fuzz/artifacts.
. "$(dirname "$0")/lib.sh"
"$root/hack/prepare.sh" fuzz
for target in objects pfx jwk pem chain error; do
    say "fuzzing $target for ${1:-20} s"
    log=$(mktemp)
    "$root/fuzz/run.sh" "$target" "-max_total_time=${1:-20}" -print_final_stats=1 >"$log" 2>&1 || { tail -n 40 "$log" >&2; exit 1; }
    grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$log"
    rm -f "$log"
done
