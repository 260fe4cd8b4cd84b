"""What `dlp mpijob` prints: manifests as YAML for kubectl, or one JSON object; checked where a CRD is given."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from dl_pipelines.brief import Brief
from dl_pipelines.training.mpijob import Cluster, manifests, problems, read_definition


def written(brief: Brief, text: str, cluster: Cluster, until: str, crd: Path | None, as_json: bool) -> str:
    """The manifests of a brief. Raises ValueError for a brief that makes no MPIJob, or one that the CRD refuses."""
    made = manifests(brief, text, cluster, until)
    if crd is not None and (wrong := problems(made[1], read_definition(crd))):
        raise ValueError(f"found that {crd} refuses the MPIJob: {'; '.join(wrong)}; expected a newer or older operator")
    if as_json:
        return json.dumps({"manifests": made, "checked": crd is not None})
    return yaml.safe_dump_all(made, sort_keys=False, allow_unicode=True)
