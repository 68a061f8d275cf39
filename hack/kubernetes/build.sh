#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster from their Go modules, which go.mod and go.sum here pin, and prints the folder
# they are in. That is done once for each version: the folder is outside the checkout. An empty cache costs a quarter of an
# hour of two cores, mostly the API server's. Arguments name the programs; none means all.
#
# AKV_CSI_KUBERNETES=1.35 builds that one, pinned by go-1.35.mod and go-1.35.sum.
. "$(dirname "$0")/../lib.sh"
cd "$root/hack/kubernetes"

pins=go${AKV_CSI_KUBERNETES:+-$AKV_CSI_KUBERNETES}.mod
[ -f "$pins" ] || fail "AKV_CSI_KUBERNETES=$AKV_CSI_KUBERNETES: there is no hack/kubernetes/$pins"
version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 }' "$pins")
[ -z "${AKV_CSI_KUBERNETES:-}" ] || [ -z "${AKV_CSI_KUBERNETES_BIN:-}" ] ||
    fail "AKV_CSI_KUBERNETES chooses what is built, and AKV_CSI_KUBERNETES_BIN what is there already: give one of them"
cache=${AKV_CSI_KUBERNETES_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/akv-csi/kubernetes-$version}
mkdir -p "$cache"

programs=("$@")
if [ $# = 0 ]; then
    programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet)
    # Any kubectl will do for a cluster of tests; building one takes two minutes.
    if ! command -v kubectl >/dev/null; then programs+=(kubectl); fi
fi

# What `kubectl version` and the Node objects say, in the two places where programs keep it.
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    minor=${version#v*.}
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=${version:1:1} -X $package.gitMinor=${minor%%.*}"
    flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=0000000000000000000000000000000000000000"
    flags+=" -X $package.buildDate=2026-01-01T00:00:00Z"
done

# Two runs at once would build everything twice.
exec 9>"$cache/.lock"
flock 9
for program in "${programs[@]}"; do
    [ ! -x "$cache/$program" ] || continue
    command -v go >/dev/null || fail "building $program needs Go; see https://go.dev/dl"
    say "building $program $version (once; minutes if Go's cache is empty)"
    started=$SECONDS
    CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -modfile "$pins" -trimpath -ldflags "$flags" -o "$cache/$program.new" "k8s.io/kubernetes/cmd/$program"
    mv "$cache/$program.new" "$cache/$program"
    say "built $program in $((SECONDS - started)) s"
done
printf '%s\n' "$cache"
