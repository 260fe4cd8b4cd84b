"""A training on Kubernetes: a brief as a ConfigMap and an MPIJob (kubeflow.org/v2beta1) whose launcher runs it.

The operator starts workers that wait for ssh and names them in a hosts file; in the launcher `dlp run` makes the data
and starts `horovodrun` over those hosts, as on one machine (`launch.py`), with the same restarts from checkpoints.
Launcher and workers share the home by a volume that many may write. Not here: applying it (`kubectl apply -f -` does).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dl_pipelines.brief.sections import Brief
from dl_pipelines.training.hosts import HOSTFILE

VERSION = "v2beta1"
HOME, BRIEF, HOSTS = "/var/lib/dlp", "/etc/dlp/brief.yaml", "/etc/mpi/hostfile"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_MEMORY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?")


@dataclass(frozen=True)
class Cluster:
    """What a brief does not know of the cluster. `slots` are workers a pod; `memory` is a pod's, as 4Gi."""

    image: str
    namespace: str = "default"
    slots: int = 1
    memory: str = "4Gi"
    gpus: int = 0
    claim: str = "dlp-home"
    secret: str = "dlp-secrets"
    variables: tuple[str, ...] = ()


def manifests(brief: Brief, text: str, cluster: Cluster, until: str = "trained_model") -> list[dict[str, Any]]:
    """The ConfigMap with the brief (`text`, as the user wrote it) and the MPIJob, as plain data.

    Raises ValueError for what can't be trained by an MPIJob: another communicator than Horovod, workers that don't fill
    pods, names that Kubernetes refuses.
    """
    given = brief.distributed
    name = brief.project.replace("_", "-")
    _check(name, brief, cluster)
    labels = {"app.kubernetes.io/name": "dl-pipelines", "app.kubernetes.io/instance": name}
    meta = {"name": name, "namespace": cluster.namespace, "labels": labels}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "name": f"{name}-brief"},
              "data": {Path(BRIEF).name: text}}  # fmt: skip
    size = {"cpu": str(given.threads * cluster.slots), "memory": cluster.memory}
    size |= {"nvidia.com/gpu": str(cluster.gpus)} if cluster.gpus else {}
    job = {
        "apiVersion": f"kubeflow.org/{VERSION}", "kind": "MPIJob", "metadata": meta,
        "spec": {
            "slotsPerWorker": cluster.slots,
            # The launcher starts again what was lost within it; the operator starts again a lost launcher.
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": given.restarts},
            "launcherCreationPolicy": "WaitForWorkersReady",
            "mpiReplicaSpecs": {
                "Launcher": _replicas(1, labels, _launcher(brief, name, cluster, until)),
                "Worker": _replicas(given.workers // cluster.slots, labels, _worker(cluster, size)),
            },
        },
    }  # fmt: skip
    return [config, job]


def _check(name: str, brief: Brief, cluster: Cluster) -> None:
    given = brief.distributed
    if given.communicator != "horovod":
        raise ValueError(
            f"found distributed.communicator: {given.communicator}; expected horovod for an MPIJob; set it, or run the "
            "brief in one pod"
        )
    if given.hosts:
        raise ValueError("found distributed.hosts; expected none for an MPIJob, whose operator names the workers")
    if given.workers % cluster.slots:
        raise ValueError(
            f"found {given.workers} workers and {cluster.slots} slots a pod; expected pods that are full; change "
            "distributed.workers or --slots"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"found the project {brief.project!r}; expected up to 40 lower case letters, digits and - after a letter, "
            "which Kubernetes takes as a name"
        )
    if not _MEMORY.fullmatch(cluster.memory):
        raise ValueError(f"found --memory {cluster.memory!r}; expected a quantity such as 4Gi or 900M")
    if wrong := [variable for variable in cluster.variables if not _VARIABLE.fullmatch(variable)]:
        raise ValueError(f"found --variable {wrong[0]!r}; expected the NAME of a variable, never its value")


def _replicas(count: int, labels: Mapping[str, str], pod: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "replicas": count, "restartPolicy": "OnFailure", "template": {"metadata": {"labels": labels}, "spec": pod},
    }  # fmt: skip


def _launcher(brief: Brief, name: str, cluster: Cluster, until: str) -> dict[str, Any]:
    secrets = sorted({*secrets_of(brief.model_dump(mode="json")), *cluster.variables})
    container = {
        "name": "launcher", "image": cluster.image, "command": ["dlp", "run", BRIEF, "--until", until],
        "env": [
            {"name": "DLP_HOME", "value": HOME},
            {"name": HOSTFILE, "value": HOSTS},
            *({"name": item, "valueFrom": {"secretKeyRef": {"name": cluster.secret, "key": item}}} for item in secrets),
        ],
        "resources": {"requests": {"cpu": "1", "memory": cluster.memory}, "limits": {"memory": cluster.memory}},
        "volumeMounts": [_home(), {"name": "brief", "mountPath": str(Path(BRIEF).parent), "readOnly": True}],
    }  # fmt: skip
    brief_volume = {"name": "brief", "configMap": {"name": f"{name}-brief"}}
    return {"containers": [container], "volumes": [_claim(cluster), brief_volume]}


def _worker(cluster: Cluster, size: Mapping[str, str]) -> dict[str, Any]:
    """Workers get no secret: what they need is in the job's folder of the home."""
    container = {
        "name": "worker", "image": cluster.image, "command": ["/usr/sbin/sshd", "-De"],
        "resources": {"requests": dict(size), "limits": dict(size)}, "volumeMounts": [_home()],
    }  # fmt: skip
    return {"containers": [container], "volumes": [_claim(cluster)]}


def _home() -> dict[str, Any]:
    return {"name": "home", "mountPath": HOME}


def _claim(cluster: Cluster) -> dict[str, Any]:
    return {"name": "home", "persistentVolumeClaim": {"claimName": cluster.claim}}


def secrets_of(value: Any) -> Iterator[str]:
    """The NAME of each `${NAME}` in a brief as plain data."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_of(item)
    elif isinstance(value, str) and (found := re.fullmatch(r"\$\{([A-Z][A-Z0-9_]*)\}", value)):
        yield found[1]


def problems(job: Mapping[str, Any], definition: Mapping[str, Any]) -> list[str]:
    """What a CustomResourceDefinition (as plain data) finds wrong with an MPIJob; unknown fields too, which it drops.

    Raises ValueError when it defines no MPIJob of our version.
    """
    import jsonschema

    found = definition.get("spec", {}) if isinstance(definition, Mapping) else {}
    versions = {item.get("name"): item for item in found.get("versions", ()) if isinstance(item, Mapping)}
    schema = versions.get(VERSION, {}).get("schema", {}).get("openAPIV3Schema")
    if found.get("names", {}).get("kind") != "MPIJob" or schema is None:
        raise ValueError(
            f"found no schema of MPIJob {VERSION}; expected the operator's CustomResourceDefinition, as "
            "`kubectl get crd mpijobs.kubeflow.org -o yaml` prints it"
        )
    checker = jsonschema.Draft202012Validator(_closed(schema))
    return [
        f"{'.'.join(map(str, error.absolute_path)) or 'MPIJob'}: {error.message}" for error in checker.iter_errors(job)
    ]


def _closed(schema: Any) -> Any:
    """A structural schema that refuses what it doesn't know, with Kubernetes' own words put into JSON Schema's."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {
        key: {name: _closed(item) for name, item in value.items()} if key == "properties" else _closed(value)
        for key, value in schema.items()
        if key not in ("description", "default", "format")
    }
    if made.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def read_definition(path: Path) -> Any:
    """A CustomResourceDefinition from YAML; of several documents the one of MPIJob. Raises ValueError."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"found {path}, which can't be read ({error}); expected YAML of a definition") from error
    named = [item for item in documents if isinstance(item, Mapping) and item.get("kind") == "CustomResourceDefinition"]
    fitting = [item for item in named if item.get("spec", {}).get("names", {}).get("kind") == "MPIJob"]
    return (fitting or named or [{}])[0]
