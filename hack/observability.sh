#!/usr/bin/env bash
# The alerts before promtool, and the dashboard before a real Prometheus that scrapes a driver on real mounts.
. "$(dirname "$0")/lib.sh"
cd "$root"

# Debian's package is unpacked, not installed: installing it would start a daemon.
prometheus=$tools/prometheus
fetch_prometheus() {
    command -v apt-get >/dev/null || return 1
    local folder
    folder=$(mktemp -d)
    say "fetching Prometheus"
    (cd "$folder" && { apt-get -qq download prometheus || { as_root apt-get -qq update && apt-get -qq download prometheus; }; }) 2>/dev/null \
        && dpkg-deb -x "$folder"/prometheus_*.deb "$folder/root" \
        && mkdir -p "$prometheus" && cp "$folder"/root/usr/bin/{prometheus,promtool} "$prometheus/"
    local result=$?
    rm -rf "$folder"
    return $result
}
if ! [ -x "$prometheus/promtool" ] && ! fetch_prometheus; then
    lacking "no Prometheus (Debian package prometheus)"
    exit 0
fi

"$prometheus/promtool" check rules deploy/alerts/akv-csi.rules.yaml
"$prometheus/promtool" test rules deploy/alerts/akv-csi.rules.test.yaml
cargo build --workspace --bins
AKV_CSI_PROMETHEUS=$prometheus hack/as-mounter.sh --if-possible \
    cargo test --workspace --test observability -- --include-ignored
