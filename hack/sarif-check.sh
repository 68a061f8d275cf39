#!/usr/bin/env bash
# What `akv-csi validate --output sarif` writes, against the schema of SARIF 2.1.0 as OASIS publishes it.
. "$(dirname "$0")/lib.sh"

has_go "the check of SARIF" || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root/hack/sarif"
go build -o "$work/check" .
schema=$(go list -m -f '{{.Dir}}' github.com/owenrumney/go-sarif/v3)/pkg/report/v210/sarif/schema.go
akv_csi=${CARGO_TARGET_DIR:-$root/target}/debug/akv-csi

# Exit code 1 says that faults were found, which is what is wanted here.
report() {
    "$akv_csi" validate --output sarif "$@" || [ $? = 1 ]
}
cd "$root/tests/e2e/manifests"
report . >"$work/faults"
report - >"$work/broken" <<<'kind: [broken'
report - >"$work/nothing" </dev/null
# A path with characters that a URI may not have.
mkdir "$work/a b"
cp validate/shop/class.yaml "$work/a b/clässe #1.yaml"
report "$work/a b" >"$work/path"
grep -q '"ruleId"' "$work/faults" || fail "the fixtures have no faults any more"
for log in faults broken nothing path; do
    "$work/check" "$schema" <"$work/$log" || fail "validate writes a log that is no SARIF: $(cat "$work/$log")"
done
# A check that takes everything would be none.
sed 's/"ruleId"/"ruleID"/' "$work/faults" >"$work/wrong"
! "$work/check" "$schema" <"$work/wrong" 2>/dev/null || fail "the schema takes a field that SARIF does not have"
say "validate writes SARIF 2.1.0"
