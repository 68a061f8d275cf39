#!/usr/bin/env bash
# Runs the CSI community's conformance tests against the driver, with nothing skipped but what needs a controller service,
# which a driver of inline volumes does not have: the controller's own tests, and "should remove target path", which makes its
# volume with CreateVolume.
. "$(dirname "$0")/lib.sh"
version=v5.6.0

if [ ! -x "$tools/bin/csi-sanity-$version" ]; then
    if ! command -v go >/dev/null; then
        [ -z "${CI:-}" ] || apt_install golang-go
        command -v go >/dev/null || { lacking "csi-sanity (no Go on this machine to build it with)"; exit 0; }
    fi
    say "building csi-sanity $version"
    GOBIN="$tools/build" go install "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$version"
    mkdir -p "$tools/bin"
    mv "$tools/build/csi-sanity" "$tools/bin/csi-sanity-$version"
fi

# Mounting needs root, or a user namespace in which this user is root.
if [ "$(id -u)" != 0 ] && [ -z "${AKV_CSI_IN_NAMESPACE:-}" ]; then
    unshare -Urm true 2>/dev/null || { lacking "csi-sanity (neither root nor user namespaces)"; exit 0; }
    AKV_CSI_IN_NAMESPACE=1 exec unshare -Urm "$0"
fi

work=$(mktemp -d)
mkdir "$work/classes"
trap 'kill "$driver" 2>/dev/null || true; wait "$driver" 2>/dev/null || true; rm -rf "$work"' EXIT
"$root/target/debug/akv-csi" node --endpoint "unix://$work/csi.sock" --node-id sanity \
    --secret-provider-classes "$work/classes" 2>"$work/driver.log" &
driver=$!
for _ in $(seq 100); do [ -S "$work/csi.sock" ] && break; sleep 0.1; done
[ -S "$work/csi.sock" ] || { cat "$work/driver.log" >&2; fail "the driver did not start"; }

report=$work/report.txt
status=0
"$tools/bin/csi-sanity-$version" --csi.endpoint "$work/csi.sock" --csi.mountdir "$work/mount" --csi.stagingdir "$work/stage" \
    --ginkgo.no-color --ginkgo.skip '[[]Controller Server]|NodeUnpublishVolume should remove target path' >"$report" 2>&1 || status=$?
tail -n 4 "$report"
[ $status = 0 ] || { cat "$report" "$work/driver.log" >&2; fail "csi-sanity failed"; }
# A run that executed nothing would be green as well.
passed=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) Passed.*/\1/p' "$report" | tail -n 1)
[ "${passed:-0}" -ge 10 ] || { cat "$report" >&2; fail "csi-sanity executed only ${passed:-0} tests"; }
[ -z "$(findmnt -rno TARGET | grep -F "$work" || true)" ] || fail "csi-sanity left something mounted"
