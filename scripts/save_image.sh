#!/usr/bin/env bash
# Makes the two files that are uploaded: the image as a docker-archive, and the model.
#
#   scripts/save_image.sh [--image NAME] [--model MODEL] [--output FOLDER]
#
# --model is a package (model.tar.gz of `nnunet_ext package`) or a trained model folder, which is packaged.
# CONTAINER_TOOL as in build_image.sh. COMPRESS is the compressor (pigz where it is there, or gzip -1).
source "$(dirname "${BASH_SOURCE[0]}")/image_common.sh"

image="nnunet_ext:latest" model="" output=dist
while [ $# -gt 0 ]; do
    case "$1" in
    --image) image="$2" && shift 2 ;;
    --model) model="$2" && shift 2 ;;
    --output) output="$2" && shift 2 ;;
    *) fail "$1: not an option (see the head of this script)" ;;
    esac
done
"$tool" image inspect "$image" >/dev/null 2>&1 || fail "--image $image: no such image, build it first"
mkdir -p "$output"
partial="$(mktemp "$output/.partial-XXXXXX")"
trap 'rm -f "$partial"' EXIT

compress="${COMPRESS:-gzip -1}"
[ -n "${COMPRESS:-}" ] || ! command -v pigz >/dev/null || compress="pigz -1"
format=()
[ "$tool_kind" != podman ] || format=(--format docker-archive)
# shellcheck disable=SC2086 # the compressor has options
"$tool" save "${format[@]}" "$image" | $compress >"$partial"
chmod 644 "$partial"
mv "$partial" "$output/image.tar.gz"
echo "$output/image.tar.gz: $(du -h "$output/image.tar.gz" | cut -f1)"

if [ -n "$model" ]; then
    if [ -d "$model" ]; then
        nnunet_ext package "$model" -o "$output/model.tar.gz"
    elif [ -f "$model" ]; then
        [ "$model" -ef "$output/model.tar.gz" ] || cp "$model" "$output/model.tar.gz"
    else
        fail "--model $model: neither a package nor a trained model folder"
    fi
    echo "$output/model.tar.gz: $(du -h "$output/model.tar.gz" | cut -f1)"
fi
