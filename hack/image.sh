#!/usr/bin/env bash
# Builds the image without a daemon: a static binary, CA certificates, nothing else. The last line on standard output is the
# path of a tar for `ctr -n k8s.io images import`, `podman load` or `docker load`.
#
#   image.sh [--profile release|dev] [--arch amd64|arm64]
#
# The same commit gives the same image, byte for byte and wherever its checkout is, with the same Rust, C compiler and CA
# certificates. Commit and date are git's, or those of AKV_CSI_GIT_COMMIT and SOURCE_DATE_EPOCH.
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
"$root/hack/prepare.sh" image "$architecture"
cd "$root"

# musl is the first choice: its binary needs the least memory. glibc linked statically does as well, and needs nothing that a
# machine which builds this project lacks.
target=$machine-unknown-linux-musl
variable=${target//-/_}
strip="strip"
read -ra flags <<<"${RUSTFLAGS:-}"
if [ "$architecture" = "$own" ]; then
    if command -v musl-gcc >/dev/null && rustup target add "$target" >/dev/null 2>&1; then
        export "CC_$variable=musl-gcc"
    else
        say "NOTICE: no musl toolchain to be had: linking glibc statically"
        target=$machine-unknown-linux-gnu
        flags+=(-Ctarget-feature=+crt-static)
    fi
else
    rustup target add "$target" >/dev/null 2>&1 || fail "image.sh: rustup has no $target for this toolchain"
    export "CC_$variable=$machine-linux-gnu-gcc" "CARGO_TARGET_${variable^^}_LINKER=$machine-linux-gnu-gcc"
    strip=$machine-linux-gnu-strip
fi

# Relocations in the packed form: half a megabyte that need not be read and kept. For other machines linkers learnt it late.
case $target in x86_64-*-musl) flags+=(-Clink-arg=-Wl,-z,pack-relative-relocs) ;; esac

# Which build this is, for `akv-csi --version` and the image's labels.
if commit=$(git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null); then
    export AKV_CSI_GIT_COMMIT="${AKV_CSI_GIT_COMMIT:-$commit}"
    # C compilers are told that as well, so with another date a third of the dependencies is built anew: not for each commit of a
    # developer.
    [ "$profile" = dev ] || export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
fi
# Panics name their source, which must not depend on where that is.
built=${CARGO_TARGET_DIR:-$root/target}
flags+=("--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "--remap-path-prefix=$root=/akv-csi" "--remap-path-prefix=$built=/target")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

say "building akv-csi for $target ($profile)"
cargo build -p csi-node --bin akv-csi --target "$target" --profile "$profile" >&2
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
if command -v "$strip" >/dev/null; then "$strip" "$rootfs/akv-csi"; fi

# An image has no libc and no loader, so a binary that wants one would be found out by the first node.
headers=$(LC_ALL=C readelf --wide --file-header --program-headers "$rootfs/akv-csi")
case $architecture in amd64) elf=X86-64 ;; arm64) elf=AArch64 ;; esac
grep -q "Machine:.*$elf" <<<"$headers" || fail "image.sh: $binary is not for $architecture"
if grep -q INTERP <<<"$headers"; then fail "image.sh: $binary is not statically linked"; fi
runner=
if [ "$architecture" != "$own" ]; then runner=$(command -v "qemu-$machine-static" "qemu-$machine" | head -n 1 || true); fi
if [ "$architecture" = "$own" ] || [ -n "$runner" ]; then
    says=$($runner "$rootfs/akv-csi" --version)
    say "$says"
    case $says in *"${AKV_CSI_GIT_COMMIT:-}"*) ;; *) fail "image.sh: the binary is not of commit $AKV_CSI_GIT_COMMIT" ;; esac
else
    say "NOTICE: no qemu-user-static here, so the binary for $architecture was not run"
fi

image=$built/image/akv-csi-$version-$architecture.tar
oci_image "$image" "akv-csi:$version" "$architecture" "$rootfs" '["/akv-csi"]' "$version" "${AKV_CSI_GIT_COMMIT:-}"
say "akv-csi:$version $architecture: binary $(stat -c %s "$rootfs/akv-csi") bytes, image $(stat -c %s "$image") bytes compressed"
printf '%s\n' "$image"
