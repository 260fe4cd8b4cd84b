#!/usr/bin/env bash
# Resolve requirements*.in into the hash-pinned locks, without download addresses. Needs a set-up .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
options=(--quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header)
"$uv" pip compile "${options[@]}" "$@" requirements.in -o requirements.lock
"$uv" pip compile "${options[@]}" "$@" requirements-triton.in -o requirements-triton.lock
# Set-up starts with uv alone, at the version that the lock holds.
grep -oE '^uv==[^ ]+' requirements.lock \
    | "$uv" pip compile "${options[@]}" --no-annotate - -o requirements-bootstrap.lock
