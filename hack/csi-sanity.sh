#!/usr/bin/env bash
# Runs the CSI community's conformance tests against the driver, as root and in a user namespace of an ordinary user. Nothing
# is skipped but what needs a controller service, which a driver of inline volumes does not have: the controller's own tests,
# and "should remove target path", which makes its volume with CreateVolume.
. "$(dirname "$0")/lib.sh"
version=v5.6.0

if [ ! -x "$tools/bin/csi-sanity-$version" ]; then
    has_go csi-sanity || exit 0
    say "building csi-sanity $version"
    GOBIN="$tools/build" go install "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$version"
    mkdir -p "$tools/bin"
    mv "$tools/build/csi-sanity" "$tools/bin/csi-sanity-$version"
fi

# Everything is copied to where any user can run it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cp "$root/target/debug/akv-csi" "$work/akv-csi"
cp "$tools/bin/csi-sanity-$version" "$work/csi-sanity"
cat >"$work/run.sh" <<'RUN'
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
run=$(mktemp -d)
mkdir "$run/classes"
driver=
trap '[ -z "$driver" ] || { kill "$driver" 2>/dev/null || true; wait "$driver" 2>/dev/null || true; }; rm -rf "$run"' EXIT
"$here/akv-csi" node --endpoint "unix://$run/csi.sock" --node-id sanity --secret-provider-classes "$run/classes" 2>"$run/log" &
driver=$!
for _ in $(seq 100); do [ -S "$run/csi.sock" ] && break; sleep 0.1; done
[ -S "$run/csi.sock" ] || { cat "$run/log" >&2; echo "the driver did not start" >&2; exit 1; }
status=0
"$here/csi-sanity" --csi.endpoint "$run/csi.sock" --csi.mountdir "$run/mount" --csi.stagingdir "$run/stage" \
    --ginkgo.no-color --ginkgo.skip '[[]Controller Server]|NodeUnpublishVolume should remove target path' \
    >"$run/report" 2>&1 || status=$?
tail -n 3 "$run/report"
[ $status = 0 ] || { cat "$run/report" "$run/log" >&2; exit 1; }
# A run that executed nothing would be green as well.
passed=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) Passed.*/\1/p' "$run/report" | tail -n 1)
[ "${passed:-0}" -ge 10 ] || { cat "$run/report" >&2; echo "only ${passed:-0} tests were executed" >&2; exit 1; }
if grep -qF "$run" /proc/self/mountinfo; then echo "something is still mounted below $run" >&2; exit 1; fi
RUN

if [ "$(id -u)" = 0 ]; then
    say "csi-sanity, as root"
    bash "$work/run.sh"
    ordinary=(setpriv --reuid=65534 --regid=65534 --clear-groups)
else
    ordinary=()
fi
say "csi-sanity, in a user namespace of an ordinary user"
if "${ordinary[@]}" unshare -Urm true 2>/dev/null; then
    "${ordinary[@]}" env TMPDIR=/tmp unshare -Urm bash "$work/run.sh"
else
    lacking "csi-sanity as an ordinary user (this kernel does not let one make user namespaces)"
fi
