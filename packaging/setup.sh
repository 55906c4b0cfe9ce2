#!/bin/sh
# Makes $VENV with flyball in it. Missing system packages are installed when run as root, else named with the command that installs them.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

need() { # need PACKAGE: install it as root, else say how
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing $*"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        echo "setup: missing system packages; install them with: sudo apt-get install -y $*" >&2
        exit 1
    fi
}

command -v "$PYTHON" >/dev/null || need python3
"$PYTHON" - <<'PY' || { echo "setup: flyball needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
import sys
raise SystemExit(sys.version_info < (3, 11))
PY
command -v gcc >/dev/null || need gcc libc6-dev
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
"$PYTHON" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || need python3-dev

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install -q --disable-pip-version-check -c packaging/constraints.txt -r packaging/build-requirements.txt
"$VENV/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation -c packaging/constraints.txt -e '.[aggregator,up,dev]'
