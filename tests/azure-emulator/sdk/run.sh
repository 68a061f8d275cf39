#!/bin/sh
# Runs the Azure SDK for Python, unmodified, against the emulator: builds both, starts the emulator, checks, stops it.
# The Python environment is kept below the target folder and made anew when requirements.txt changes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=$target/azure-emulator-sdk

if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.txt"
fi

cargo build --quiet --manifest-path "$root/Cargo.toml" --package azure-emulator

work=$(mktemp -d)
mkfifo "$work/ready"
"$target/debug/azure-emulator" --https 127.0.0.1:0 --imds 127.0.0.1:0 --control 127.0.0.1:0 \
    --ca-file "$work/ca.pem" >"$work/ready" &
emulator=$!
trap 'kill "$emulator" 2>/dev/null || true; wait "$emulator" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# The read ends with the ready line, or at once if the emulator ends before it.
IFS= read -r line <"$work/ready"
printf '%s\n' "$line" >"$work/ready.json"

"$venv/bin/python" "$here/check.py" "$work/ready.json"
