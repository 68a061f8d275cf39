#!/usr/bin/env bash
# What a cluster finds when it starts: cluster-room.sh NAME COMMAND…, run by cluster.sh as the first process of namespaces of its
# own. Whatever is mounted, started or addressed here is gone when this process is.
set -euo pipefail
name=$1
shift

# Documentation addresses: the node, Azure, and the API server, which is where pods look for it (the first address of the
# service network), so that no proxy is needed.
ip link set lo up
for address in 198.51.100.1 198.51.100.2 198.18.1.1; do ip addr add "$address/32" dev lo; done

mount -t tmpfs -o mode=755 run /run
# Everything below the kubelet's folder has to reach containers that are running, and mounts made there have to come back.
mount -t tmpfs -o mode=755 kubelet /var/lib/kubelet
mount --make-rshared /var/lib/kubelet
# What pods ask the kubelet to make on the node.
mount -t tmpfs -o mode=755 logs /var/log/containers
mount -t tmpfs -o mode=755 kubernetes /etc/kubernetes

# The kubelet sets these for the whole machine unless it finds them set. It shall find them set. They are files of a file system of
# their own, because the kubelet looks for the one that images are on by any of its mounts.
mkdir /run/settings
mount -t tmpfs -o mode=755 settings /run/settings
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    [ -e "/proc/sys/${setting%=*}" ] || continue
    file=/run/settings/$(tr / . <<<"${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

# One cgroup for all pods, to be removed as one, and one in it for each node: a kubelet ends what it finds in its own and does
# not know.
for group in "$name" "$name/node-1" "$name/node-2"; do
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p "/sys/fs/cgroup/$group"
        read -ra controllers </sys/fs/cgroup/cgroup.controllers
        for controller in "${controllers[@]}"; do
            echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
            echo "+$controller" >"/sys/fs/cgroup/$group/cgroup.subtree_control" 2>/dev/null || true
        done
    else
        for hierarchy in /sys/fs/cgroup/*/; do
            mountpoint -q "$hierarchy" || continue
            mkdir -p "$hierarchy$group"
            for set in cpuset.cpus cpuset.mems; do
                if [ -e "$hierarchy$set" ]; then cat "$hierarchy$set" >"$hierarchy$group/$set"; fi
            done
        done
    fi
done

# Not by exec: the first process of a namespace also buries the orphans, and the shell knows how.
"$@" &
child=$!
trap 'kill -TERM $child 2>/dev/null || true' TERM INT
status=0
wait $child || status=$?
# A signal ends the wait, not the child.
while kill -0 $child 2>/dev/null; do wait $child || status=$?; done
exit $status
