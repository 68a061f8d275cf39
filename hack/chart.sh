#!/usr/bin/env bash
# The Helm chart: `hack/chart.sh install` gets Helm, `check` lints the chart, `manifests` makes the files that are made from it.
. "$(dirname "$0")/lib.sh"
version=v3.22.0

install_helm() {
    [ -x "$tools/bin/helm-$version" ] && return
    has_go Helm || return 0
    say "building Helm $version"
    CGO_ENABLED=0 GOBIN="$tools/build" go install -trimpath -ldflags "-s -w" "helm.sh/helm/v3/cmd/helm@$version" ||
        { lacking "Helm (it could not be built)"; return; }
    mkdir -p "$tools/bin"
    mv "$tools/build/helm" "$tools/bin/helm-$version"
    ln -sf "helm-$version" "$tools/bin/helm"
}

cd "$root"
case ${1:-} in
install)
    install_helm
    ;;
check)
    install_helm
    command -v helm >/dev/null || exit 0
    for values in "" tests/chart/values/*.yaml; do
        helm lint --quiet --strict deploy/charts/akv-csi ${values:+--values "$values"} >&2
    done
    # For the whole workspace, because with other features everything would be built anew.
    "${CARGO:-cargo}" test -q --workspace --test written
    ;;
manifests)
    install_helm
    AKV_CSI_WRITE=1 "${CARGO:-cargo}" test -q --workspace --test written
    ;;
*)
    fail "usage: $0 install | check | manifests"
    ;;
esac
