#!/usr/bin/env bash
# `make demo`: builds what is needed, then runs the demo as root, or as root of a user namespace.
. "$(dirname "$0")/lib.sh"
cd "$root"
hack/prepare.sh build
say "building the driver and the demo (a few minutes the first time)"
cargo build -p csi-node -p e2e --bins

demo=(target/debug/demo)
[ -z "${KEEP:-}" ] || demo+=(--keep)
exec hack/as-mounter.sh "${demo[@]}"
