"""From an artifact to what Dagster shows of it: metadata, data version, check results. Decides nothing."""

import html
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dl_pipelines.store.artifacts import Artifact, Gate
from dl_pipelines.store.digest import digest_json


def data_version(artifacts: Iterable[Artifact]) -> dg.DataVersion:
    """The digest of one artifact; of several, that of all their digests (a run over many days has one version)."""
    digests = [artifact.digest for artifact in artifacts]
    return dg.DataVersion(digests[0] if len(digests) == 1 else digest_json(digests))


def metadata(artifact: Artifact) -> dict[str, Any]:
    """What a person sees: the artifact's `show`, its digest, place and cost, and every gate."""
    shown = {name: _value(value) for name, value in artifact.show.items()}
    return {
        **shown,
        "digest": artifact.digest,
        "artifact": dg.MetadataValue.path(str(artifact.path)),
        "seconds": float(artifact.outcome["seconds"]),
        "gates": dg.MetadataValue.md(gate_table(artifact.gates)),
        "measured": dg.MetadataValue.json(artifact.measured),
    }


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"md"}:
        return dg.MetadataValue.md(value["md"])
    if isinstance(value, str) and value.endswith(".html") and Path(value).is_absolute():
        return dg.MetadataValue.url(Path(value).as_uri())
    if isinstance(value, bool | int | float | str):
        return value
    return dg.MetadataValue.json(value)


def gate_table(gates: Iterable[Gate]) -> str:
    """The gates as a Markdown table; a summary may quote what a file or a client said."""
    words = {True: "passed", False: "failed", None: "undecided"}
    rows = [f"| {gate.name} | {words[gate.passed]} | {_cell(gate.summary)} |" for gate in gates]
    return "\n".join(["| gate | | |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").split())


def severity(gate: Gate) -> dg.AssetCheckSeverity:
    """A blocking gate that did not pass is an error, any other one a warning."""
    return dg.AssetCheckSeverity.ERROR if gate.blocking else dg.AssetCheckSeverity.WARN


def description(gate: Gate) -> str:
    """The gate's sentence; Dagster knows no third outcome, so an undecided one says so."""
    return f"undecided: {gate.summary}" if gate.passed is None else gate.summary


def check_results(key: dg.AssetKey, artifact: Artifact, declared: Mapping[str, bool]) -> Iterator[dg.AssetCheckResult]:
    """One result for each check that was declared; `declared` says whether it blocks.

    A gate that the stage did not evaluate is told as a warning that did not pass: a check without a result would let
    everything downstream proceed unseen.
    """
    gates = {gate.name: gate for gate in artifact.gates}
    for name, blocking in declared.items():
        gate = gates.get(name) or Gate(name, None, "the stage did not evaluate it for this partition")
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=gate.passed is True,
            severity=severity(Gate(name, gate.passed, gate.summary, blocking=blocking and name in gates)),
            description=description(gate),
            metadata={fact: _value(value) for fact, value in gate.facts.items() if value is not None},
        )


def check_evaluations(
    key: dg.AssetKey, artifact: Artifact, declared: Mapping[str, bool], partition: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """The same for one day of a run over many: Dagster gives the results of such a run no partition by itself."""
    for result in check_results(key, artifact, declared):
        assert result.check_name
        yield dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=result.check_name,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
            blocking=declared[result.check_name],
            partition=partition,
        )
