#!/usr/bin/env bash
# Runs a saved image as the platform does: no network, read-only root and input, tmpfs /tmp, no capabilities, a memory
# limit, a small /dev/shm, an arbitrary uid, the model mounted read-only.
#
#   scripts/test_image.sh --image image.tar.gz --model model.tar.gz [--scans FOLDER]
#
# --scans    a folder of scans for a model of one channel; without it, a synthetic scan
# From the environment: CONTAINER_TOOL, RUN_ARGS (more options for the tool's run), MEMORY_GB (4).
source "$(dirname "${BASH_SOURCE[0]}")/image_common.sh"

image="" model="" scans=""
MEMORY_GB="${MEMORY_GB:-4}"
while [ $# -gt 0 ]; do
    case "$1" in
    --image) image="$2" && shift 2 ;;
    --model) model="$2" && shift 2 ;;
    --scans) scans="$2" && shift 2 ;;
    *) fail "$1: not an option (see the head of this script)" ;;
    esac
done
[ -f "$image" ] || fail "--image $image: no such file, what save_image.sh made is needed"
[ -f "$model" ] || fail "--model $model: no such file, a model package is needed"
[ -z "$scans" ] || [ -d "$scans" ] || fail "--scans $scans: no such folder"

work="$(mktemp -d)"
server=""
cleanup() {
    [ -z "$server" ] || "$tool" rm --force "$server" >/dev/null 2>&1 || true
    # Files of the container's uid are not a rootless user's to remove; podman can become that uid.
    rm -rf "$work" 2>/dev/null || "$tool" unshare rm -rf "$work" || true
}
trap cleanup EXIT

failures=0
ok() { printf '  ok      %s\n' "$*"; }
bad() { printf '  FAILED  %s\n' "$*" && failures=$((failures + 1)); }
check() { # check NAME COMMAND...
    local name="$1"
    shift
    if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name: $(tail -1 "$work/log")"; fi
}

echo "loading $image"
# Unpacked here: some versions of podman take a compressed archive for a broken one.
loaded="$(gzip -dc "$image" | "$tool" load | sed -nE 's/^Loaded image(\(s\))?: //p' | head -1)"
[ -n "$loaded" ] || fail "$image: holds no image"
mkdir "$work/model"
tar -xzf "$model" -C "$work/model"

image_has() { [ -n "$(inspect "$1")" ] && [ "$(inspect "$1")" != "<no value>" ]; }
inspect() { "$tool" image inspect --format "$1" "$loaded"; }
echo "image $loaded, $(($(inspect '{{.Size}}') / 1000000)) MB"
is_amd64() { [ "$(inspect '{{.Os}}/{{.Architecture}}')" = linux/amd64 ]; }
user="$(inspect '{{.Config.User}}')"
not_root() { case "$user" in "" | root* | 0*) return 1 ;; esac; }
check "linux/amd64" is_amd64
check "runs as a user, not as root ($user)" not_root
check "api-method label ($(inspect '{{index .Config.Labels "org.grand-challenge.api-method"}}'))" \
    image_has '{{index .Config.Labels "org.grand-challenge.api-method"}}'

# box INPUT OUTPUT [OPTIONS...] -- [ARGUMENTS...]: the platform's sandbox.
box() {
    local input="$1" output="$2" options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    # shellcheck disable=SC2086 # RUN_ARGS is a list of options
    "$tool" run --network none --read-only --tmpfs /tmp:rw,size=1g --cap-drop ALL \
        --security-opt no-new-privileges --memory "${MEMORY_GB}g" --ulimit "data=$((MEMORY_GB << 30))" --shm-size 16m \
        --user 4242:4242 \
        --volume "$input:/input:ro" --volume "$output:/output" --volume "$work/model:/opt/ml/model:ro" \
        ${RUN_ARGS:-} "${options[@]}" "$loaded" "$@"
}
python_in_box() { # python_in_box INPUT OUTPUT: a program on stdin, with the image's own libraries
    box "$1" "$2" --rm --interactive --entrypoint python -- -
}
folder() { mkdir -p "$work/$1" && chmod 777 "$work/$1" && echo "$work/$1"; }

none="$(folder none)"
made="$(folder made)"
if [ -z "$scans" ]; then
    python_in_box "$none" "$made" <<'PY'
import numpy as np, SimpleITK as sitk
scan = sitk.GetImageFromArray(np.random.default_rng(0).normal(500, 100, (6, 96, 80)).astype(np.int16))
scan.SetSpacing((1.5, 1.5, 8)); scan.SetOrigin((-20, 5, 30)); scan.SetDirection((0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1))
sitk.WriteImage(scan, "/output/made.nii.gz")
PY
    scans="$made"
fi

echo "folder of scans"
masks="$(folder masks)"
start=$SECONDS
if box "$scans" "$masks" --rm -- >"$work/log" 2>&1; then
    ok "$(find "$masks" -type f ! -name 'predictions.*' | wc -l) masks of $(find "$scans" -maxdepth 1 -type f | wc -l) files in $((SECONDS - start)) s"
else
    bad "folder: $(tail -1 "$work/log")"
fi

echo "one case by sockets, exec"
case="$(folder case)" && out="$(folder out)" && one="$(folder one)"
cat >"$work/sockets.py" <<'PY'
import json, os, pathlib, SimpleITK as sitk
sockets = json.loads(pathlib.Path("/opt/ml/model/sockets.json").read_text())
slug = (sockets["inputs"] or ["any-scan"])[0]
first = sorted(p for p in pathlib.Path("/input").iterdir() if p.name.endswith((".nii", ".nii.gz", ".mha")))[0]
place = pathlib.Path("/output/images/some-folder"); place.mkdir(parents=True)
sitk.WriteImage(sitk.ReadImage(str(first)), str(place / "4f1c.mha"))
entry = {"socket": {"slug": slug, "relative_path": "images/some-folder", "kind": "Image", "is_image_kind": True}}
pathlib.Path("/output/inputs.json").write_text(json.dumps([entry]))
PY
python_in_box "$scans" "$case" <"$work/sockets.py"
start=$SECONDS
if box "$case" "$out" --rm --env API_METHOD=exec -- >"$work/log" 2>&1; then
    ok "exit code 0 in $((SECONDS - start)) s"
else
    bad "exec: $(tail -1 "$work/log")"
fi
cat >"$work/compare.py" <<'PY'
import pathlib, sys, SimpleITK as sitk
masks = [p for p in pathlib.Path("/output").rglob("*") if p.is_file() and p.suffix == ".mha"]
hidden = [p for p in pathlib.Path("/output").rglob(".*")]
assert len(masks) == 1 and not hidden, (masks, hidden)
mask, scan = sitk.ReadImage(str(masks[0])), sitk.ReadImage("/input/images/some-folder/4f1c.mha")
assert mask.GetPixelID() == sitk.sitkUInt8 and mask.GetSize() == scan.GetSize()
for a, b in ((mask.GetSpacing(), scan.GetSpacing()), (mask.GetOrigin(), scan.GetOrigin()), (mask.GetDirection(), scan.GetDirection())):
    assert max(abs(x - y) for x, y in zip(a, b)) < 1e-6, (a, b)
PY
compare() { python_in_box "$case" "$1" <"$work/compare.py"; }
check "one uint8 mask with the scan's geometry" compare "$out"

echo "a bad case, exec"
spoilt="$(folder spoilt)" && left="$(folder left)"
cp "$case/inputs.json" "$spoilt/" && mkdir -p "$spoilt/images/some-folder" && : >"$spoilt/images/some-folder/0.mha"
if box "$spoilt" "$left" --rm --env API_METHOD=exec -- >"$work/log" 2>&1; then
    bad "an empty file was accepted"
else
    ok "refused: $(tail -1 "$work/log")"
fi
if [ -z "$(find "$left" -type f)" ]; then ok "nothing left in /output"; else bad "left: $(find "$left" -type f)"; fi

echo "one case by sockets, invoke"
server="$(box "$case" "$one" --detach --env API_METHOD=invoke --)"
ask() { # ask METHOD PATH: the status code
    "$tool" exec "$server" python -c '
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:4743" + sys.argv[2], method=sys.argv[1]), timeout=120).status)
except urllib.error.HTTPError as error: print(error.code)
except OSError: print(0)' "$1" "$2"
}
status=0
start=$SECONDS
while [ "$status" != 200 ] && [ $((SECONDS - start)) -lt 120 ]; do
    status="$(ask GET /health || true)"
done
if [ "$status" = 200 ]; then ok "healthy within $((SECONDS - start)) s"; else bad "health: $status after $((SECONDS - start)) s"; fi
status="$(ask POST /invoke || true)"
if [ "$status" = 201 ]; then ok "invoke: 201"; else bad "invoke: $status, $("$tool" logs "$server" 2>&1 | tail -1)"; fi
check "the same outputs as exec" diff -r "$out" "$one"
start=$(date +%s%N)
"$tool" stop --time 10 "$server" >/dev/null 2>&1 || true
took=$((($(date +%s%N) - start) / 1000000))
if [ "$took" -lt 5000 ]; then ok "SIGTERM ends it ($took ms)"; else bad "SIGTERM took $took ms"; fi

[ "$failures" = 0 ] || fail "$failures checks failed"
echo "all checks passed"
