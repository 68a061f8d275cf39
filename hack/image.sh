#!/usr/bin/env bash
# Builds the image without a daemon: a static binary, CA certificates, nothing else. The last line on standard output is the
# path of a tar for `ctr -n k8s.io images import`, `podman load` or `docker load`.
#
#   image.sh [--profile release|dev] [--arch amd64|arm64]
. "$(dirname "$0")/lib.sh"
# shellcheck source=hack/oci.sh
. "$root/hack/oci.sh"

profile=release architecture=
while [ $# -gt 0 ]; do
    case $1 in
        --profile) profile=$2; shift 2 ;;
        --arch) architecture=$2; shift 2 ;;
        *) fail "image.sh: unknown argument $1; it takes --profile and --arch" ;;
    esac
done
case $(uname -m) in
    x86_64) own=amd64 ;;
    aarch64) own=arm64 ;;
    *) fail "image.sh: images are built for amd64 and arm64, and this machine is $(uname -m)" ;;
esac
architecture=${architecture:-$own}
case $architecture in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "image.sh: --arch is amd64 or arm64, not $architecture" ;;
esac
"$root/hack/prepare.sh" build
cd "$root"

# musl is the first choice: its binary needs the least memory. glibc linked statically does as well, and needs nothing that a
# machine which builds this project lacks.
target=$machine-unknown-linux-musl
variable=${target//-/_}
if [ "$architecture" = "$own" ]; then
    command -v musl-gcc >/dev/null || (apt_install musl-tools) || say "NOTICE: no musl-tools"
    if command -v musl-gcc >/dev/null && rustup target add "$target" >/dev/null 2>&1; then
        export "CC_$variable=musl-gcc"
    else
        say "NOTICE: no musl toolchain to be had: linking glibc statically"
        target=$machine-unknown-linux-gnu
        export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
    fi
else
    cross=$machine-linux-gnu-gcc
    command -v "$cross" >/dev/null || apt_install "gcc-$machine-linux-gnu" "libc6-dev-$architecture-cross"
    rustup target add "$target" >/dev/null 2>&1 || fail "image.sh: rustup has no $target for this toolchain"
    export "CC_$variable=$cross" "CARGO_TARGET_${variable^^}_LINKER=$cross"
fi

say "building akv-csi for $target ($profile)"
cargo build -p csi-node --bin akv-csi --target "$target" --profile "$profile" >&2
built=${CARGO_TARGET_DIR:-$root/target}
folder=$profile
[ "$profile" != dev ] || folder=debug
binary=$built/$target/$folder/akv-csi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
chmod 755 "$rootfs"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$rootfs/etc/ssl/certs/ca-certificates.crt"
install -m 755 "$binary" "$rootfs/akv-csi"
# Most of a development build is symbols that nothing in an image reads.
if [ "$architecture" = "$own" ] && command -v strip >/dev/null; then strip "$rootfs/akv-csi"; fi
image=$built/image/akv-csi-$version-$architecture.tar
oci_image "$image" "akv-csi:$version" "$architecture" "$rootfs" '["/akv-csi"]'
say "akv-csi:$version $architecture: binary $(stat -c %s "$rootfs/akv-csi") bytes, image $(stat -c %s "$image") bytes compressed"
printf '%s\n' "$image"
