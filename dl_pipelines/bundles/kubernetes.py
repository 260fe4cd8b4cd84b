"""Kubernetes manifests of a served bundle as plain data: a Deployment, a Service, the volume of the prediction log.

Rendered, not applied: nothing here talks to a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HOME = "/opt/dlp"
HTTP, GRPC, METRICS = 8000, 8001, 8002
USER = 1000
"""The user `triton-server` of the official image."""
LOG_SIZE, SHARED_MEMORY = "10Gi", "1Gi"
_QUANTITY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._-]*(:[0-9]+(?=/))?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?",
    re.ASCII,
)
"""A host with its port, a path in lower case, a tag of either case, a digest (github.com/distribution/reference)."""


@dataclass(frozen=True)
class Served:
    """What is deployed: `cpus` whole cores, `memory` a quantity (2Gi), the server's `command`."""

    project: str
    image: str
    cpus: int
    memory: str
    command: Sequence[str]


def manifests(served: Served) -> list[dict[str, Any]]:
    """The three manifests. Raises ValueError for what Kubernetes refuses.

    One pod: its log is a volume that one node may write, so an update stops the old pod before it starts the new one.
    """
    name = served.project.replace("_", "-")
    _check(name, served)
    labels = {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": name}
    meta = {"name": name, "labels": labels}
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {**meta, "name": f"{name}-predictions"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": LOG_SIZE}}},
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(name, served)},
        },
    }  # fmt: skip
    ports = [{"name": port, "port": number, "targetPort": port} for port, number in (("http", HTTP), ("grpc", GRPC))]
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": meta,
        "spec": {"type": "ClusterIP", "selector": labels, "ports": ports},
    }  # fmt: skip
    return [claim, deployment, service]


def _pod(name: str, served: Served) -> dict[str, Any]:
    ready = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}
    live = {"httpGet": {"path": "/v2/health/live", "port": "http"}}
    container = {
        "name": "triton", "image": served.image, "command": list(served.command),
        "ports": [
            {"name": port, "containerPort": number}
            for port, number in (("http", HTTP), ("grpc", GRPC), ("metrics", METRICS))
        ],
        "resources": {
            "requests": {"cpu": str(served.cpus), "memory": served.memory}, "limits": {"memory": served.memory},
        },
        "startupProbe": {**ready, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "predictions", "mountPath": f"{HOME}/predictions"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }  # fmt: skip
    return {
        # Triton needs no rights in the cluster.
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [
            {"name": "predictions", "persistentVolumeClaim": {"claimName": f"{name}-predictions"}},
            # The router's process exchanges tensors with the server through it; the default of 64 MiB is too small.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        ],
    }  # fmt: skip


def _check(name: str, served: Served) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"found the project {served.project!r}; expected lower case letters, digits and - after a letter, which "
            "Kubernetes takes as a name"
        )
    if not _QUANTITY.fullmatch(served.memory):
        raise ValueError(f"found --memory {served.memory!r}; expected a quantity such as 2Gi or 900M")
    require_image(served.image, "--image")


def require_image(image: str, option: str) -> None:
    """That an image is named with a tag or a digest. Raises ValueError."""
    named = _IMAGE.fullmatch(image)
    if named is None or (named["digest"] is None and named["tag"] in (None, "latest")):
        raise ValueError(
            f"found {option} {image!r}; expected an image with a tag or digest of its own, such as "
            "registry.example/team/digits:1"
        )
