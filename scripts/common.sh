# Sourced by the other scripts: a virtual environment with the project in it, made once and kept.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${NNUNET_EXT_VENV:-$PWD/.venv}"
python="${PYTHON:-python3}"

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

# install_project EXTRAS: (re)installs only when the requirements or the interpreter changed.
install_project() {
    local extras="$1" stamp want constraints=(-c constraints.txt)
    command -v "$python" >/dev/null || fail "$python not found, Python 3.10 or newer is needed (set PYTHON=...)"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$python" --version) found, Python 3.10 or newer is needed (set PYTHON=...)"
    if [ ! -x "$venv/bin/python" ]; then
        echo "making the virtual environment $venv"
        "$python" -m venv "$venv" || fail "$python -m venv failed (on Debian: apt-get install python3-venv)"
    fi
    # One stamp per set of extras: the demo and the tests take turns without installing again.
    stamp="$venv/.installed-$extras"
    want="$("$venv/bin/python" --version) $PWD $(cat pyproject.toml constraints.txt | cksum)"
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
        echo "installing into $venv (nnU-Net and torch: about 6 GB, a few minutes)"
        # The tested set needs Python 3.11; on 3.10 pip chooses within the lower bounds.
        "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || constraints=()
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            ${constraints[@]+"${constraints[@]}"} -e ".[$extras]"
        echo "$want" >"$stamp"
    fi
    export PATH="$venv/bin:$PATH"
}
