#!/usr/bin/env bash
# Installs nasformer and what its tests need into .venv and runs the suite; flags given here go to pytest.
# What is marked slow is left out; -m "" runs it too.
# Data sets are looked for in NASFORMER_DATA; tests that need them are skipped without.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[test]"
exec "$VENV/bin/python" -m pytest "$@"
