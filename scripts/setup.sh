#!/usr/bin/env bash
# Set everything up: .venv from the lock, Horovod from its sdist, Triton's venv. Idempotent: each part leaves
# a stamp that holds the hash of what it was made from, and is skipped while that stays the same. Bytecode is compiled
# here, once: where PYTHONDONTWRITEBYTECODE is set, every process would otherwise compile its imports again (3 s a run).
#   bench                as the argument: the benchmarks' peers too, in .venv-bench
#   PYTHON=python3.11    the interpreter
#   TORCH_BACKEND=cpu    CPU builds of torch and torchvision, from the index that uv knows for them
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3.11}
TORCH_BACKEND=${TORCH_BACKEND:-}
uv=.venv/bin/uv

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
key() { { sha256sum "$@"; echo "$base $TORCH_BACKEND ${HOROVOD_GPU_OPERATIONS:-}"; } | sha256sum | cut -c 1-16; }
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
works() { [ -x "$1/bin/python" ] && "$1/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; }

command -v "$PYTHON" >/dev/null || fail "found no $PYTHON, expected Python 3.11:" \
    "install it with its venv and headers (Debian: python3.11 python3.11-venv python3.11-dev), or set PYTHON"
base=$("$PYTHON" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3], sys.base_prefix)') ||
    fail "found a $PYTHON that does not start, expected Python 3.11: set PYTHON to another"
case $base in
3.11.*) ;;
*) fail "found Python ${base%% *} ($PYTHON), expected 3.11 (Horovod's launcher needs distutils): set PYTHON" ;;
esac
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "found $(uname -s) on $(uname -m), expected Linux on x86_64: Triton's wheel exists for nothing else"

if command -v flock >/dev/null; then  # two set-ups at once would undo each other
    exec 9>.venv.lock
    flock 9
fi

check_compiler() { # Needed once, for Horovod; a wheel in the cache needs none.
    compgen -G "${XDG_CACHE_HOME:-$HOME/.cache}/dl-pipelines/horovod/*/horovod-*.whl" >/dev/null && return
    command -v c++ >/dev/null || fail "found no C++ compiler (c++), expected one to build Horovod: install g++"
    command -v make >/dev/null || fail "found no make, expected one to build Horovod: install make"
    "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "found no Python.h for $PYTHON, expected its headers to build Horovod: install python3.11-dev"
}

setup_python() {
    local stamp=.venv/.stamp-python want
    want=$(key requirements.lock requirements-bootstrap.lock)
    fresh $stamp "$want" && works .venv && return
    check_compiler
    say "installing the locked environment into .venv"
    works .venv || { rm -rf .venv && "$PYTHON" -m venv .venv; } ||
        fail "$PYTHON can't make a virtual environment: install its venv module (Debian: python3.11-venv)"
    rm -f .venv/.stamp-*
    [ -x $uv ] || .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes \
        --only-binary :all: -r requirements-bootstrap.lock
    if [ -n "$TORCH_BACKEND" ]; then
        # Another build of torch has other hashes: everything else is verified by the lock.
        awk '/^[a-z0-9]/ { keep = $0 !~ /^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==/ } keep' \
            requirements.lock >.venv/requirements.lock
        $uv pip sync --quiet --compile-bytecode --require-hashes --python .venv/bin/python .venv/requirements.lock
        $uv pip install --quiet --compile-bytecode --python .venv/bin/python --torch-backend "$TORCH_BACKEND" \
            $(grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock)
    else
        $uv pip sync --quiet --compile-bytecode --require-hashes --python .venv/bin/python requirements.lock
    fi
    echo "$want" >$stamp
}

setup_project() { # The checkout itself is on the path; no wheel of it is made.
    local packages=.venv/lib/python3.11/site-packages
    printf '%s\n' "$PWD" >$packages/dl_pipelines.pth
    printf '#!%s\nimport sys\n\nfrom dl_pipelines.cli import main\n\nsys.exit(main())\n' \
        "$PWD/.venv/bin/python" >.venv/bin/dlp.partial
    chmod 755 .venv/bin/dlp.partial
    mv .venv/bin/dlp.partial .venv/bin/dlp
    .venv/bin/python -m compileall -q dl_pipelines assets resources sensors
}

setup_horovod() {
    local stamp=.venv/.stamp-horovod want wheel
    want=$(key requirements.lock scripts/build_horovod.py)
    fresh $stamp "$want" && return
    wheel=$(.venv/bin/python scripts/build_horovod.py) || exit 1
    $uv pip install --quiet --compile-bytecode --python .venv/bin/python --no-deps --reinstall "$wheel"
    echo "$want" >$stamp
}

setup_triton() {
    local stamp=.venv-triton/.stamp-triton want server=.venv-triton/tritonserver wheel
    want=$(key requirements-triton.lock)
    fresh $stamp "$want" && works .venv-triton && return
    say "installing Triton into .venv-triton"
    rm -f $stamp
    works .venv-triton || { rm -rf .venv-triton && $uv venv --quiet --python "$PYTHON" .venv-triton; }
    $uv pip sync --quiet --compile-bytecode --require-hashes --python .venv-triton/bin/python requirements-triton.lock
    # The Python backend wants the stub of its interpreter beside it; ours are added in each home.
    wheel=.venv-triton/lib/python3.11/site-packages/pytriton/tritonserver
    rm -rf $server $server.partial
    mkdir -p $server.partial/backends
    cp -R $wheel/backends/python $server.partial/backends/python
    cp $wheel/python_backend_stubs/3.11/triton_python_backend_stub $server.partial/backends/python/
    chmod 755 $server.partial/backends/python/triton_python_backend_stub
    mv $server.partial $server
    echo "$want" >$stamp
}

setup_bench() { # No environment: packages on the path of a benchmark's peer, which runs in .venv.
    local stamp=.venv-bench/.stamp-bench want
    want=$(key requirements-bench.lock requirements.lock)
    fresh $stamp "$want" && return
    say "installing the benchmarks' peers into .venv-bench"
    rm -rf .venv-bench
    $uv pip install --quiet --compile-bytecode --require-hashes --no-deps --python .venv/bin/python \
        --target .venv-bench -r requirements-bench.lock
    echo "$want" >$stamp
}

setup_python
setup_project
setup_horovod
setup_triton
[ "${1:-}" != bench ] || setup_bench
