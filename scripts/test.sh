#!/usr/bin/env bash
# Runs the tests in a virtual environment of their own. --all adds the slow ones; everything else goes to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
marker="not slow"
if [ "${1:-}" = "--all" ]; then
    marker=""
    shift
fi
install_project test
echo "environment: $venv"
exec python -m pytest -m "$marker" "$@"
