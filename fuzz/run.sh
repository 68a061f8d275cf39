#!/bin/sh
# Builds and runs one fuzz target without cargo-fuzz: ./run.sh TARGET [libFuzzer options]
set -eu
cd "$(dirname "$0")"
target=$1
shift
triple=$(rustc +nightly --print host-tuple)
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo +nightly build --release --target "$triple" --bin "$target"
mkdir -p "corpus/$target" "artifacts/$target"
if [ -f "dict/$target.dict" ]; then set -- "-dict=dict/$target.dict" "$@"; fi
exec "${CARGO_TARGET_DIR:-target}/$triple/release/$target" "-artifact_prefix=artifacts/$target/" "$@" "corpus/$target"
