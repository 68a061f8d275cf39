#!/usr/bin/env bash
# A real single-node Kubernetes with the driver in it, in namespaces of its own: nothing of it is seen outside, and all of it is
# gone with its first process.
#
#   cluster.sh e2e [--only TEXT]…   every case, one line each
#   cluster.sh list                 their names
#   cluster.sh up                   leaves it running in the foreground, for work by hand in another terminal:
#   cluster.sh kubectl ARGUMENTS…   as the cluster's administrator
#   cluster.sh enter [COMMAND…]     a shell, or a command, beside the cluster's processes
#   cluster.sh down                 removes what an `up` elsewhere, or a run that was killed, has left
. "$(dirname "$0")/lib.sh"
built=${CARGO_TARGET_DIR:-$root/target}
state=${AKV_CSI_CLUSTER_DIR:-$built/cluster}
# Covered by fresh file systems inside; nothing of theirs is seen there, or changed.
covered=(/var/lib/kubelet /var/log/containers /etc/kubernetes)
name=akv-csi-cluster-$(cksum <<<"$state" | cut -d' ' -f1)

# Takes those folders into use. Removing one takes away what is mounted on it in every namespace, so only the last run does that:
# each holds a lock on the first of them, and so do all its processes.
use_covered() {
    while true; do
        mkdir -p "${covered[@]}"
        exec 8<"${covered[0]}"
        flock --shared 8
        if [ "${covered[0]}" -ef /dev/fd/8 ]; then break; fi
    done
    mkdir -p "${covered[@]}"
}

# Those that were made for this are empty.
release_covered() {
    { exec 8<"${covered[0]}"; } 2>/dev/null || return 0
    if flock --exclusive --nonblock 8; then
        for folder in "${covered[@]}"; do rmdir "$folder" 2>/dev/null || true; done
    fi
    exec 8<&-
}

# The process outside the namespaces whose end is everybody's inside.
keeper() {
    local pid
    pid=$(cat "$state/pid" 2>/dev/null) || return 1
    # Numbers are used again: it has to be the process that was written down.
    grep -qs "$name" "/proc/$pid/cmdline" || return 1
    printf '%s' "$pid"
}

tear_down() {
    local pid
    if pid=$(keeper); then
        kill -KILL "$pid" 2>/dev/null || true
        while [ -d "/proc/$pid" ] && ! grep -qs '^State:.*Z' "/proc/$pid/status"; do sleep 0.1; done
    fi
    rm -f "$state/pid"
    # A group can be removed when the last process has left it, which takes the kernel a moment.
    for _ in $(seq 100); do
        find /sys/fs/cgroup -depth -type d -path "*/$name*" -exec rmdir {} + 2>/dev/null || true
        [ -n "$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$name" 2>/dev/null)" ] || break
        sleep 0.1
    done
    release_covered
}

needs_root() {
    [ "$(id -u)" = 0 ] || { lacking "the cluster (it takes root)"; exit 0; }
}

build_program() {
    say "building the cluster's program"
    (cd "$root" && cargo build -p cluster --bins)
}

prepare() {
    local missing=()
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v containerd >/dev/null || missing+=(containerd)
    command -v runc >/dev/null || missing+=(runc)
    command -v ip >/dev/null || missing+=(iproute2)
    [ -x /usr/lib/cni/ptp ] || missing+=(containernetworking-plugins)
    # The kubelet looks for it, rules are made by nobody.
    command -v iptables >/dev/null || missing+=(iptables)
    # Containers of tests hold this and nothing else.
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
    "$root/hack/prepare.sh" build

    kubernetes=$("$root/hack/kubernetes/build.sh")
    "$root/hack/chart.sh" install
    command -v helm >/dev/null || fail "the driver is installed by Helm, and there is none"
    # Its own code has to be the same, its speed has not: an optimised build takes five minutes more.
    image=$("$root/hack/image.sh" --profile "${AKV_CSI_CLUSTER_PROFILE:-dev}")
    build_program

    # shellcheck source=hack/oci.sh
    . "$root/hack/oci.sh"
    case $(uname -m) in x86_64) architecture=amd64 ;; *) architecture=arm64 ;; esac
    busybox=$(mktemp -d)
    chmod 755 "$busybox"
    mkdir -p "$busybox/bin" "$busybox/etc" "$busybox/tmp"
    cp "$(command -v busybox)" "$busybox/bin/busybox"
    for applet in sh cat sleep ls id stat env; do ln -s busybox "$busybox/bin/$applet"; done
    # The name that documentation and samples use, so that they run as they are.
    oci_image "$built/image/busybox.tar" registry.k8s.io/e2e-test-images/busybox:1.29-4 "$architecture" "$busybox" '[]'
    oci_image "$built/image/pause.tar" akv-csi.test/pause:1 "$architecture" "$busybox" '["/bin/busybox","sleep","2147483647"]'
    rm -rf "$busybox"
}

# run COMMAND ARGUMENTS…: the cluster's program in its namespaces.
run() {
    local command=$1
    shift
    ! keeper >/dev/null || fail "a cluster of this checkout is running: hack/cluster.sh down ends it"
    tear_down
    mkdir -p "$state"
    use_covered
    trap tear_down EXIT
    unshare --mount --net --pid --ipc --fork --kill-child --mount-proc --propagation private \
        bash "$root/hack/cluster-room.sh" "$name" \
        "$built/debug/cluster" "$command" --state "$state" --cgroup "/$name" --kubernetes "$kubernetes" \
        --image "$image" --image "$built/image/busybox.tar" --image "$built/image/pause.tar" \
        --checkout "$root" "$@" &
    local pid=$!
    echo $pid >"$state/pid"
    # Ctrl-C reaches everybody in the foreground; a `kill` of this script reaches this script alone.
    trap 'kill -TERM $(pgrep -P $pid) 2>/dev/null || true' TERM INT
    local status=0
    wait $pid || status=$?
    while [ -d "/proc/$pid" ]; do wait $pid || status=$?; done
    return $status
}

inside() {
    local pid first
    pid=$(keeper) || fail "no cluster of this checkout is running: hack/cluster.sh up starts one"
    first=$(pgrep -P "$pid") || fail "the cluster is ending"
    # Into the namespaces by their first process: the one outside has the old process ids. Entering leads to /, but files that are
    # named on the command line are where the caller is.
    # shellcheck disable=SC2016
    exec nsenter --target "$first" --mount --net --pid --ipc env KUBECONFIG="$state/admin.kubeconfig" \
        sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

with_kubectl() {
    command -v kubectl >/dev/null || PATH="$PATH:$("$root/hack/kubernetes/build.sh" kubectl)"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
    e2e | up) needs_root; prepare; run "$command" "$@" ;;
    list) build_program; "$built/debug/cluster" list ;;
    down) needs_root; tear_down ;;
    kubectl) with_kubectl; inside kubectl "$@" ;;
    enter)
        with_kubectl
        if [ $# -gt 0 ]; then inside "$@"; else inside bash; fi
        ;;
    *) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
