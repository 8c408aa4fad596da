#!/usr/bin/env bash
# Builds the container image, with docker or podman.
#
#   scripts/build_image.sh [--tag NAME] [--api exec|invoke] [--base IMAGE | --debian-base] [--torch REQUIREMENT]
#
# --base IMAGE     another base; one without torch gets the torch of constraints.txt (or --torch)
# --debian-base    makes the base from Debian packages (debootstrap, as root), where no registry can be reached
# --torch REQ      for a base without torch, such as torch==2.13.0+cpu
#
# From the environment: CONTAINER_TOOL (docker or podman; the first that is usable), BUILD_ARGS (more options for the
# tool's build), proxies, pip's index (PIP_INDEX_URL, ... or pip's configuration) and a CA bundle (PIP_CERT, ...).
source "$(dirname "${BASH_SOURCE[0]}")/image_common.sh"

tag="nnunet_ext:latest" api=exec base="" torch="" debian=""
while [ $# -gt 0 ]; do
    case "$1" in
    --tag) tag="$2" && shift 2 ;;
    --api) api="$2" && shift 2 ;;
    --base) base="$2" && shift 2 ;;
    --torch) torch="$2" && shift 2 ;;
    --debian-base) debian=yes && shift ;;
    *) fail "$1: not an option (see the head of this script)" ;;
    esac
done
[ "$api" = exec ] || [ "$api" = invoke ] || fail "--api $api: exec or invoke is needed"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

if [ -n "$debian" ]; then
    base=localhost/nnunet-ext-debian-python:bookworm
    if ! "$tool" image inspect "$base" >/dev/null 2>&1; then
        command -v debootstrap >/dev/null || fail "debootstrap: not found, --debian-base needs it"
        [ "$(id -u)" = 0 ] || fail "--debian-base: debootstrap needs root"
        echo "making $base from Debian packages"
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$scratch/root" >"$scratch/log" ||
            { tail -5 "$scratch/log" >&2 && fail "debootstrap failed"; }
        rm -rf "$scratch"/root/var/cache/apt "$scratch"/root/var/lib/apt/lists
        tar -C "$scratch/root" -c . | "$tool" import - "$base" >/dev/null
        rm -rf "$scratch/root"
    fi
fi

options=(--tag "$tag" --build-arg "API_METHOD=$api" --platform linux/amd64)
[ -z "$base" ] || options+=(--build-arg "BASE_IMAGE=$base")
[ -z "$torch" ] || options+=(--build-arg "TORCH=$torch")
for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    # By name: the value stays out of the command line, and the tool knows not to keep it.
    [ -z "${!name:-}" ] || options+=(--build-arg "$name")
done

pip_settings >"$scratch/pip.conf"
if [ -s "$scratch/pip.conf" ]; then
    options+=(--secret "id=pip,src=$scratch/pip.conf")
    if [ "$tool_kind" = podman ]; then
        # An index that is a folder of this machine must be visible in the build, with the files beside it that its
        # pages link to.
        while read -r folder; do
            [ ! -d "$folder" ] || [ "$folder" = / ] || options+=(--volume "$folder:$folder:ro")
        done < <(tr ' ' '\n' <"$scratch/pip.conf" | sed -nE 's|^file://(/.*)/[^/]+/?$|\1|p; s|^(/[^ ]*)$|\1|p' | sort -u)
    fi
fi
for bundle in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" "${CURL_CA_BUNDLE:-}"; do
    if [ -n "$bundle" ] && [ -f "$bundle" ]; then
        options+=(--secret "id=ca,src=$bundle")
        break
    fi
done

echo "building $tag ($api) with $tool"
# shellcheck disable=SC2086 # BUILD_ARGS is a list of options
DOCKER_BUILDKIT=1 "$tool" build "${options[@]}" ${BUILD_ARGS:-} .
echo "built $tag; next: scripts/save_image.sh --image $tag"
