#!/usr/bin/env bash
# The whole story on synthetic data: virtual environment, install, `nnunet_ext demo`. Arguments go to the demo.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install_project container
echo "environment: $venv"
exec nnunet_ext demo "$@"
