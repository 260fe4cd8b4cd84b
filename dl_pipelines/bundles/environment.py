"""A fresh environment of Python that holds one package with what it needs and nothing else, without a network.

The standard library makes it, empty; the files of the wanted distributions are linked into it from the environment that
runs this. What imports there imports wherever `requirements.txt` is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from dl_pipelines.bundles.base import BundleError

SECONDS = 300


def closure(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The distributions `names` and all that they require here, by normalised name, sorted. Raises BundleError."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, metadata.Distribution] = {}
    waiting = [(canonicalize_name(name), "the bundle") for name in names]
    while waiting:
        name, asker = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise BundleError(
                f"found no {name}, which {asker} needs; expected the packages of requirements.lock; run `make setup`"
            ) from None
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append((canonicalize_name(requirement.name), name))
    return dict(sorted(found.items()))


def requirements(names: Sequence[str]) -> str:
    """`requirements.txt`: the closure with exact versions."""
    lines = [f"{name}=={distribution.version}" for name, distribution in closure(names).items()]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "\n".join([f"# Python {version}: what the script was tested with", *lines]) + "\n"


def fresh_environment(folder: Path, names: Sequence[str]) -> Path:
    """Make an environment in `folder` with the closure of `names`; its interpreter. Raises BundleError."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for distribution in closure(names).values():
        _link(distribution, packages)
    return python


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    """Every file of a distribution by a link of its own, so that packages that share a folder do not bring others."""
    for file in distribution.files or ():
        if file.is_absolute() or ".." in file.parts or "__pycache__" in file.parts:
            continue  # its commands, and what Python compiles again
        source, target = Path(str(distribution.locate_file(file))).resolve(), packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file() and not target.exists():
            target.symlink_to(source)


def run(python: Path, arguments: Sequence[str | Path], folder: Path) -> str:
    """Run a script there, without this process's paths and settings of Python; what it printed. Raises BundleError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(python), "-I", "-B", *map(str, arguments)]
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise BundleError(f"found that {arguments[0]} ran for {SECONDS} s; expected it to end") from None
    if ended.returncode != 0:
        told = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BundleError(
            f"found that {Path(arguments[0]).name} fails in an environment with only its requirements ({told[:300]}); "
            "expected it to answer the parity rows"
        )
    return ended.stdout
