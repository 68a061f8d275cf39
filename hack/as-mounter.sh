#!/usr/bin/env bash
# Runs a command that mounts: as it is for root, else as root of a user namespace. With --if-possible, where neither is to be
# had, it runs all the same: tests then say what they leave out.
. "$(dirname "$0")/lib.sh"
must=yes
if [ "$1" = --if-possible ]; then must=no; shift; fi
if [ "$(id -u)" = 0 ]; then
    exec "$@"
elif unshare -Urm true 2>/dev/null; then
    say "not root: running in a user namespace"
    AKV_CSI_IN_NAMESPACE=1 exec unshare -Urm "$@"
elif [ $must = no ]; then
    exec "$@"
else
    fail "mounting needs root or user namespaces, and this kernel gives neither to $(id -un): run it as root, or allow user
namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
fi
