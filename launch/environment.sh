# Sourced by the launchers: makes the virtual environment once, and again only when what is to be installed changes.
VENV="${NASFORMER_VENV:-.venv}"

find_python() {
  local name
  for name in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 python; do
    if [ -n "$name" ] && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.11 or newer with venv is needed; name one with PYTHON=/path/to/python" >&2
  return 1
}

install() { # install EXTRAS: the package in editable form, with such extras as "[test]"
  local python stamp mark="$VENV/installed$1"
  stamp="$(cat setup.cfg pyproject.toml | cksum)"
  if [ -f "$mark" ] && [ "$(cat "$mark")" = "$stamp" ]; then
    return
  fi
  if ! "$VENV/bin/python" -m pip --version > /dev/null 2>&1; then
    python="$(find_python)"
    "$python" -m venv "$VENV"
  fi
  echo "installing nasformer$1 into $VENV ..."
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$1"
  echo "$stamp" > "$mark"
}
