#!/usr/bin/env bash
# Unmodified Azure SDK clients against the emulator: what they can do there, they can do in Azure.
. "$(dirname "$0")/lib.sh"

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    [ -z "${CI:-}" ] || apt_install python3 python3-venv
    python3 -c 'import venv, ensurepip' 2>/dev/null || { lacking "the Azure SDK check (no Python with venv)"; exit 0; }
fi
exec "$root/tests/azure-emulator/sdk/run.sh"
