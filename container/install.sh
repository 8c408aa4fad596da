#!/bin/sh
# Installs the project into a new virtual environment while the image is built: install.sh VENV [TORCH]
set -eu
venv="$1"
torch="${2:-}"
[ -f /run/secrets/pip ] && export PIP_CONFIG_FILE=/run/secrets/pip
[ -f /run/secrets/ca ] && export PIP_CERT=/run/secrets/ca

# The environment sees the base's packages, so that a torch that is there is kept.
python3 -m venv --system-site-packages "$venv"
pip="$venv/bin/python -m pip"
family='^(torch|torchvision|triton|nvidia-.*|cuda-.*)=='
have=$("$venv/bin/python" - <<'PY'
from importlib.metadata import PackageNotFoundError, version
for name in ("torch", "torchvision"):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
PY
)
case "$have" in
*torch==*)
    # What came with the base fits its CUDA; everything else is as it was tested.
    grep -Ev "$family" constraints.txt >/tmp/constraints.txt
    printf '%s\n' "$have" >>/tmp/constraints.txt
    ;;
*)
    cp constraints.txt /tmp/constraints.txt
    if [ -n "$torch" ]; then
        grep -Ev "$family" constraints.txt >/tmp/constraints.txt
        $pip install "$torch"
        printf 'torch==%s\n' "$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')" \
            >>/tmp/constraints.txt
    fi
    ;;
esac
$pip install -c /tmp/constraints.txt '.[container]'
# Nothing of a tool chain is needed to run.
$pip uninstall --yes --quiet pip
