#!/usr/bin/env bash
# Installs what building (prepare.sh build) or testing (prepare.sh test) needs and this machine lacks.
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
if [ "$what" = test ] && [ -n "${CI:-}" ]; then "$root/hack/kubernetes/build.sh" kube-apiserver >/dev/null; fi
