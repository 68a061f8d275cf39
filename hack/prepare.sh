#!/usr/bin/env bash
# Installs what this machine lacks: for building (prepare.sh build), for testing (prepare.sh test), for fuzzing (prepare.sh fuzz),
# for the image of an architecture (prepare.sh image amd64|arm64).
. "$(dirname "$0")/lib.sh"
what=${1:-build}

missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v curl >/dev/null || missing+=(curl)
[ -s /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ "$what" = test ]; then
    command -v openssl >/dev/null || missing+=(openssl)
    command -v findmnt >/dev/null || missing+=(util-linux)
    # For tests with a real API server. Elsewhere than in CI those are left out where one is not built yet, which takes minutes.
    [ -z "${CI:-}" ] || command -v etcd >/dev/null || missing+=(etcd-server)
fi
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

# The toolchain's version is in rust-toolchain.toml; rustup fetches it at the first call of cargo.
if ! command -v cargo >/dev/null; then
    if apt-cache show rustup >/dev/null 2>&1; then
        apt_install rustup
    else
        say "installing rustup for this user"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
    fi
fi
cargo --version >/dev/null || fail "cargo does not run; see https://rustup.rs"
if [ "$what" = fuzz ]; then
    command -v g++ >/dev/null || apt_install g++
    rustc +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
fi
if [ "$what" = image ]; then
    # musl is linked from what comes with Rust's target; the C compiler is for the crypto library, and the linker.
    case ${2:?amd64 or arm64}-$(uname -m) in
        amd64-x86_64 | arm64-aarch64) command -v musl-gcc >/dev/null || (apt_install musl-tools) || say "NOTICE: no musl-tools" ;;
        amd64-*) command -v x86_64-linux-gnu-gcc >/dev/null || apt_install gcc-x86-64-linux-gnu libc6-dev-amd64-cross ;;
        arm64-*) command -v aarch64-linux-gnu-gcc >/dev/null || apt_install gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    esac
fi
if [ "$what" = test ] && [ -n "${CI:-}" ]; then
    has_go "a real API server"
    "$root/hack/kubernetes/build.sh" kube-apiserver >/dev/null
fi
