#!/usr/bin/env bash
# Resolve requirements*.in into the hash-pinned locks, without download addresses. Needs a set-up .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
options=(--quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header)
"$uv" pip compile "${options[@]}" "$@" requirements.in -o requirements.lock
"$uv" pip compile "${options[@]}" "$@" requirements-triton.in -o requirements-triton.lock
# What a benchmark's peer needs beside .venv, which it sees too: the same versions, and nothing twice.
"$uv" pip compile "${options[@]}" "$@" -c requirements.lock requirements-bench.in -o requirements-bench.lock \
    $(sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package \1/p' requirements.lock)
# Set-up starts with uv alone, at the version that the lock holds.
grep -oE '^uv==[^ ]+' requirements.lock \
    | "$uv" pip compile "${options[@]}" --no-annotate - -o requirements-bootstrap.lock
