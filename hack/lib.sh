# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Tools that the scripts install for themselves, outside the sources and kept between runs.
tools=${AKV_CSI_TOOLS:-$root/.cache/tools}
mkdir -p "$tools"
export PATH="$tools/bin:$HOME/.cargo/bin:$PATH"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# A part that a machine lacks is left out with a notice on a developer's machine. CI leaves nothing out.
lacking() {
    if [ -n "${CI:-}" ]; then fail "$1: needed here, because CI skips nothing"; fi
    say "NOTICE: $1: left out"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

# Whether there is Go to build a tool of the tests with; it says what has to be left out if not.
has_go() {
    command -v go >/dev/null || [ -z "${CI:-}" ] || apt_install golang-go
    command -v go >/dev/null || { lacking "$1 (no Go on this machine, see https://go.dev/dl)"; return 1; }
}

# Installs Debian/Ubuntu packages, where that can be done.
apt_install() {
    command -v apt-get >/dev/null || fail "please install: $*"
    say "installing: $*"
    as_root apt-get -qq update || fail "please install as root: apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}
