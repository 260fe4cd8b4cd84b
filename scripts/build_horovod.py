"""Build Horovod 0.28.1 for the torch of this interpreter, once per torch, Python and patch.

Downloads the sdist by its hash, patches it (each patch must match exactly, or the build stops), builds a
wheel without isolation and keeps it in the user's cache. Prints the wheel's path as its last line.
Not here: installing it (the Makefile does) and using it (`dl_pipelines/training/communicators/horovod.py`).

CPU operations over gloo are the default, also where torch is a CUDA build or an `nvcc` is on the PATH.
`HOROVOD_GPU_OPERATIONS=NCCL` keeps Horovod's own CUDA probes, for a machine with a toolkit and NCCL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
OPTIONS = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}


@dataclass(frozen=True)
class Patch:
    """One exact replacement in one file of the sdist; `old` must occur exactly once."""

    path: str
    old: str
    new: str
    why: str


PATCHES = (
    Patch(
        "CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)\nset(CMAKE_CXX_STANDARD_REQUIRED ON)",
        "set(CMAKE_CXX_STANDARD 20)\nset(CMAKE_CXX_STANDARD_REQUIRED ON)",
        "torch 2.15's headers refuse less than C++20",
    ),
    Patch(
        "horovod/torch/CMakeLists.txt",
        "    set(CMAKE_CXX_STANDARD 14)\n",
        "    set(CMAKE_CXX_STANDARD 20)\n",
        "the same, for the torch extension",
    ),
    Patch(
        "horovod/runner/util/network.py",
        "            addr = ('', port)\n",
        "            addr = (os.environ.get('DLP_HOROVOD_BIND', '127.0.0.1'), port)\n",
        "the rendezvous server unpickles what it is sent: it listens on loopback unless told otherwise",
    ),
    Patch(
        "horovod/runner/util/network.py",
        "import psutil\nimport random\nimport socket\n",
        "import os\nimport psutil\nimport random\nimport socket\n",
        "for the line above",
    ),
    Patch(
        "horovod/common/gloo/gloo_context.cc",
        "  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n  auto dev = CreateDevice(device_attr);\n\n"
        "  global_ctx = global_context.ctx;\n",
        "  gloo_iface_ = global_context.gloo_iface_;\n  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n  auto dev = CreateDevice(device_attr);\n\n"
        "  global_ctx = global_context.ctx;\n",
        "the connections that gradients take were made where the machine's name points to, not on the given interface",
    ),
    Patch(
        "horovod/common/util.py",
        "def gloo_built(verbose=False):\n",
        "def gloo_built(verbose=False):\n    return True\n",
        "this wheel is; asking imports torch once more, before any worker starts",
    ),
)
CPU_PATCHES = (
    Patch(
        "cmake/Modules/FindPytorch.cmake",
        "print(True if ((torch.version.cuda is not None) and (CUDA_HOME is not None)) else False)",
        "print(False)",
        "a CUDA build of torch beside a stray nvcc would turn the CUDA build on",
    ),
    Patch(
        "CMakeLists.txt",
        "if(CMAKE_CUDA_COMPILER)\n",
        "if(FALSE)\n",
        "an nvcc without a toolkit behind it fails when the language is enabled",
    ),
)


class BuildError(RuntimeError):
    """The wheel could not be built: what was found, what was expected, what to do."""


def patches() -> tuple[Patch, ...]:
    """The patches of this build: CPU only, unless `HOROVOD_GPU_OPERATIONS` asks for GPU operations."""
    return PATCHES if os.environ.get("HOROVOD_GPU_OPERATIONS") else PATCHES + CPU_PATCHES


def build_key(torch_version: str) -> str:
    """`<torch>-<python>-<hash of sdist, patches and options>`: what a cached wheel depends on."""
    gpu = os.environ.get("HOROVOD_GPU_OPERATIONS", "")
    parts = [SDIST_SHA256, gpu, *map(repr, sorted(OPTIONS.items())), *(repr(astuple(p)) for p in patches())]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"{torch_version}-cp{sys.version_info.major}{sys.version_info.minor}-{digest}"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dl-pipelines/horovod`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "dl-pipelines" / "horovod"


def apply(patch: Patch, root: Path) -> None:
    """Apply one patch under `root`. Raises BuildError unless its text is there exactly once."""
    file = root / patch.path
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    count = text.count(patch.old)
    if count != 1:
        raise BuildError(
            f"found the text of a patch {count} times in horovod {VERSION}/{patch.path}, expected it once"
            f" ({patch.why}); the text is {patch.old!r}: adapt PATCHES in scripts/build_horovod.py"
        )
    file.write_text(text.replace(patch.old, patch.new), encoding="utf-8")


def fetch(folder: Path) -> Path:
    """Download the sdist into `folder` through pip, verified by its hash; returns its path."""
    wanted = folder / "horovod.txt"
    wanted.write_text(f"horovod=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "horovod"]
    options = ["--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(wanted)]
    failure = "the sdist could not be downloaded: check the package index and the network"
    _run([*pip, *options], folder, os.environ.copy(), failure)
    (sdist,) = folder.glob("horovod-*.tar.gz")
    return sdist


def build(folder: Path) -> Path:
    """Download, patch and build in the empty `folder`; returns the wheel's path."""
    for tool, package in (("c++", "g++"), ("make", "make")):
        if shutil.which(tool) is None:
            raise BuildError(f"found no {tool}, expected a C++20 compiler and make; install {package}")
    sdist = fetch(folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"horovod-{VERSION}"
    for patch in patches():
        apply(patch, source)
    scripts = Path(sys.executable).parent
    environment = os.environ | OPTIONS | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    environment |= {"HOROVOD_CMAKE": str(scripts / "cmake"), "MAKEFLAGS": f"-j{os.cpu_count() or 1}"}
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    failure = "the build failed: its last lines are above"
    _run([*pip, "--wheel-dir", str(folder / "wheel"), str(source)], folder, environment, failure)
    (wheel,) = (folder / "wheel").glob("horovod-*.whl")
    return wheel


def _run(command: list[str], folder: Path, environment: dict[str, str], failure: str) -> None:
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        print("\n".join(result.stdout.splitlines()[-60:]), file=sys.stderr)
        raise BuildError(f"{failure} (exit {result.returncode})")


def main() -> int:
    """Print the path of the cached wheel, after building it where there is none."""
    try:
        import torch
    except ImportError as error:
        print(f"found no torch ({error}), expected the locked environment: run `make setup`", file=sys.stderr)
        return 1
    target = cache_folder() / build_key(str(torch.__version__))
    found = sorted(target.glob("horovod-*.whl"))
    if not found:
        target.mkdir(parents=True, exist_ok=True)
        print(f"building horovod {VERSION} for torch {torch.__version__}: some minutes, once", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(prefix="dlp-horovod-") as folder:
                wheel = build(Path(folder))
                partial = target / f"{wheel.name}.{os.getpid()}.partial"
                shutil.copyfile(wheel, partial)
                partial.rename(target / wheel.name)
        except BuildError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        found = [target / wheel.name]
    print(found[-1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
