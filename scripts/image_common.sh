# Sourced by the scripts about the image: finds the container tool and what pip is told here.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

tool="${CONTAINER_TOOL:-}"
if [ -z "$tool" ]; then
    # A docker client without its daemon is of no use.
    for candidate in docker podman; do
        "$candidate" info >/dev/null 2>&1 && tool="$candidate" && break
    done
fi
[ -n "$tool" ] || fail "neither docker nor podman is usable, one of them is needed (or CONTAINER_TOOL)"
command -v "$tool" >/dev/null || fail "CONTAINER_TOOL=$tool: not found"
# `docker` may be podman under another name.
tool_kind=docker
case "$("$tool" --version 2>/dev/null)" in *podman*) tool_kind=podman ;; esac

# pip_settings: where pip looks for packages on this machine, as the configuration file of another pip.
pip_settings() {
    local key value found=""
    for key in index-url extra-index-url find-links trusted-host timeout; do
        value="$(python3 -m pip config list 2>/dev/null |
            sed -nE "s/^(global|install|:env:)\.$key='(.*)'\$/\2/p" | tail -1 | sed 's/\\n/ /g')"
        [ -n "$value" ] || continue
        [ -n "$found" ] || echo "[global]"
        found=yes
        echo "$key = $value"
    done
}
