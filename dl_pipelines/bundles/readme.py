"""README.md of a bundle: what every target has to say; the rest is the target's own."""

from __future__ import annotations

from dl_pipelines.bundles.base import Built, Source
from dl_pipelines.tasks.base import Tensor


def readme(source: Source, target: str, built: Built) -> str:
    """Markdown: where it comes from, the target's own part, input and output, how it was compared."""
    choice = source.choice
    title = f"# {source.project} for {target}"
    origin = (
        f"Made by `dlp bundle {source.project} --target {target}` from the compressed model "
        f"`{source.compressed.short}` of {source.partition.key.replace('|', ', experiment ')} "
        f"(`{choice['variant']}`, {choice['precision']}, served by {choice['runtime']}). "
        "`manifest.json` has the sha256 of every file."
    )
    checks = ["| compared | result |", "|---|---|"]
    checks += [f"| {check.name} | {check.parity.summary} |" for check in built.checks]
    parts = [title, origin, built.readme.strip(), _ends(source), "## How it was compared", "\n".join(checks)]
    return "\n\n".join(parts) + "\n"


def _ends(source: Source) -> str:
    signature = source.signature
    rows = ["## Input and output", "", "| | name | dtype | shape |", "|---|---|---|---|"]
    rows += [_row("input", tensor) for tensor in signature.inputs]
    rows += [_row("output", tensor) for tensor in signature.outputs]
    if signature.columns:
        rows += ["", f"Columns of the input: {', '.join(f'`{name}`' for name in signature.columns)}."]
    if signature.labels:
        rows += ["", f"Labels along the output: {', '.join(f'`{name}`' for name in signature.labels)}."]
    rows += ["", "Raw values go in: what prepares them (scaling, normalising) is part of the model."]
    return "\n".join(rows)


def _row(kind: str, tensor: Tensor) -> str:
    shape = ", ".join(["N", *("any" if size == -1 else str(size) for size in tensor.shape)])
    return f"| {kind} | `{tensor.name}` | {tensor.dtype} | [{shape}] |"
