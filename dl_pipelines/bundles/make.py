"""Writes a bundle: built under another name, held to its parities, manifest last, renamed. Half a bundle is never seen.

An existing bundle of the same model, options and package versions is left as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dl_pipelines.bundles.base import Built, BundleParityError, Check, Source
from dl_pipelines.bundles.readme import readme
from dl_pipelines.bundles.registry import builder
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_bytes, digest_file, digest_json, list_files

VERSION = 2
"""Raised when the same model would make another bundle."""
MANIFEST = "manifest.json"
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "executorch", "emx-onnx-cgen")


@dataclass(frozen=True)
class Bundle:
    """A finished bundle; `made` is False where it was there already."""

    path: Path
    manifest: Mapping[str, Any]
    made: bool


def make_bundle(source: Source, target: str, out: Path, locks: Path, force: bool = False) -> Bundle:
    """The bundle of `source` for `target`, in the folder `out`.

    `force` replaces another or a damaged bundle, never a folder that is none. Raises ValueError (no such target,
    something else is there), BundleParityError, BundleError, ArtifactError, OSError.
    """
    from filelock import FileLock

    build = builder(target)
    out = out.resolve()
    asked = _asked(source, target)
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"bundle-{digest_bytes(str(out).encode())[:16]}.lock"):
        aside = out.with_name(f".{out.name}.replaced")
        _settle(out, aside)
        found = _look(out, asked, force)
        if found is not None:
            return Bundle(out, found, False)
        fresh = out.with_name(f".{out.name}.making")
        durable.remove_tree(fresh)  # what a killed command left
        fresh.mkdir(parents=True)
        try:
            with tempfile.TemporaryDirectory(prefix="dlp-bundle-") as work:
                built = build(source, fresh, Path(work))
            manifest = _finish(source, target, asked, built, fresh)
            if out.exists():
                durable.rename(out, aside)
            durable.rename(fresh, out)
        finally:
            durable.remove_tree(fresh)
            _settle(out, aside)
    return Bundle(out, manifest, True)


def _settle(out: Path, aside: Path) -> None:
    """Of what replacing began: the old bundle goes when the new one is in place, else it comes back."""
    if aside.exists() and (out / MANIFEST).exists():
        durable.remove_tree(aside)
    elif aside.exists() and _vacant(out):
        durable.rename(aside, out)


def _vacant(out: Path) -> bool:
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def _asked(source: Source, target: str) -> dict[str, Any]:
    """Everything that a bundle depends on; the same asks for the same bundle."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    asked = {
        "version": VERSION, "target": target, "project": source.project, "partition": source.partition.key,
        "compressed_model": source.compressed.digest, "packages": packages,
        "serving": source.serving.model_dump(mode="json", include={"threads", "instances", "parity_tolerance"}),
    }  # fmt: skip
    if target == "cloud":
        asked |= {"options": asdict(source.options), "triton_repository": source.repository().digest}
    return asked


def _look(out: Path, asked: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The manifest of the same, sound bundle at `out`; None where a new one may be written. Raises ValueError."""
    if _vacant(out):
        return None
    try:
        manifest = durable.read_json(out / MANIFEST)
        other = manifest["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"found {out}, which is no bundle; expected a folder of its own for the bundle, new or empty; give --out"
        ) from None
    if force:
        return None
    if other != asked:
        raise ValueError(
            f"found another bundle in {out} ({_apart(other, asked)}); expected the same or none; replace it with "
            "--force, or give another --out"
        )
    wrong = differing(out, manifest)
    if wrong:
        raise ValueError(
            f"found the bundle in {out} changed since it was written ({', '.join(wrong[:3])}); expected the files of "
            "its manifest; write it again with --force"
        )
    return manifest


def _apart(other: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = [name for name in asked if other.get(name) != asked[name]]
    return f"its {', '.join(names)} differ" if names else "it was made with other settings"


def differing(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a bundle that are missing, damaged or not in its manifest, sorted; of a changed manifest only that."""
    if manifest.get("digest") != digest_json({key: value for key, value in manifest.items() if key != "digest"}):
        return [MANIFEST]
    there = set(list_files(folder)) - {MANIFEST}
    listed = manifest["files"]
    wrong = there.symmetric_difference(listed)
    return sorted(wrong | {name for name in there & set(listed) if digest_file(folder / name) != listed[name]})


def _finish(
    source: Source, target: str, asked: Mapping[str, Any], built: Built, folder: Path
) -> dict[str, Any]:  # fmt: skip
    """README and manifest into the folder, everything flushed. Raises BundleParityError."""
    _require(target, built.checks)
    durable.put_text(folder / "README.md", readme(source, target, built))
    manifest: dict[str, Any] = {
        "bundle": target,
        "asked": dict(asked),
        "source": {
            "stage": source.compressed.stage, "digest": source.compressed.digest,
            **{name: source.choice[name] for name in ("variant", "runtime", "precision")},
        },
        "parity": [check.plain() for check in built.checks],
        "facts": dict(built.facts),
        "files": {name: digest_file(folder / name) for name in list_files(folder)},
    }  # fmt: skip
    manifest["digest"] = digest_json(manifest)
    durable.put_json(folder / MANIFEST, manifest)
    durable.flush_tree(folder)
    return manifest


def _require(target: str, checks: Sequence[Check]) -> None:
    assert checks, f"the target {target} was held to no parity"
    failed = [f"{check.name}: {check.parity.summary}" for check in checks if not check.parity.passed]
    if failed:
        raise BundleParityError(
            f"found that the {target} bundle would answer otherwise than the model that serves: {'; '.join(failed)}; "
            "expected the same answers; nothing was written"
        )
