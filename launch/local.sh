#!/usr/bin/env bash
# Installs nasformer into .venv and runs the quickstart; flags given here are passed on and win:
#   bash launch/local.sh --workdir=DIR --config.seeds='(0,1)'
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install ""
exec "$VENV/bin/python" -m nasformer.main --config=experiments/quickstart/digits.py --workdir=runs/digits "$@"
