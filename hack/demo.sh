#!/usr/bin/env bash
# `make demo`: builds what is needed, then runs the demo as root, or as root of a user namespace.
. "$(dirname "$0")/lib.sh"
cd "$root"
hack/prepare.sh build
say "building the driver and the demo (a few minutes the first time)"
cargo build -p csi-node -p e2e --bins

demo=(target/debug/demo)
[ -z "${KEEP:-}" ] || demo+=(--keep)
if [ "$(id -u)" = 0 ]; then
    exec "${demo[@]}"
elif unshare -Urm true 2>/dev/null; then
    say "not root: running in a user namespace"
    exec unshare -Urm "${demo[@]}"
else
    fail "mounting needs root or user namespaces, and this kernel gives neither to $(id -un): run 'sudo make demo', or allow
user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
fi
