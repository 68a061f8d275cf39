#!/usr/bin/env bash
# Builds the guide in docs/ as a site. A link that leads nowhere, or a page that no menu shows, is an error.
. "$(dirname "$0")/lib.sh"

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    [ -z "${CI:-}" ] || apt_install python3 python3-venv
    python3 -c 'import venv, ensurepip' 2>/dev/null || { lacking "the guide as a site (no Python with venv)"; exit 0; }
fi
venv=$tools/docs
stamp=$venv/requirements.txt
if ! cmp -s "$root/hack/docs/requirements.txt" "$stamp"; then
    say "installing the documentation tool"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$root/hack/docs/requirements.txt"
    cp "$root/hack/docs/requirements.txt" "$stamp"
fi
# Not --quiet, which would hide the warnings from --strict too.
if ! output=$(NO_MKDOCS_2_WARNING=1 "$venv/bin/mkdocs" build --strict --config-file "$root/hack/docs/mkdocs.yml" 2>&1); then
    say "$output"
    fail "the guide does not build"
fi
say "the guide is in target/docs/index.html"
