#!/usr/bin/env bash
# bash test.sh [PYTEST ARGUMENTS]: set up once, then run the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tools/setup.sh
. tools/setup.sh
setup dev || { echo "error: the set-up failed; run this again to repair it" >&2; exit 1; }
# Two processes: most tests use one core.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
