"""Kubernetes manifests of a served bundle as plain data: what runs it, who may reach it, how many of it there are.

Rendered, not applied: nothing here talks to a cluster. One file a manifest, which Kustomize puts together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dl_pipelines.bundles import access

HOME = "/opt/dlp"
HTTP, GRPC, METRICS = 8000, 8001, 8002
USER = 1000
"""The user `triton-server` of the official image."""
LOG_SIZE, SHARED_MEMORY, TEMPORARY = "10Gi", "1Gi", "1Gi"
ADMIN_KEY = "DLP_ADMIN_KEY"
"""What loads and unloads models asks for this key; without one the server makes one up that nobody knows."""
_QUANTITY = re.compile(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+")
_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._-]*(:[0-9]+(?=/))?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?",
    re.ASCII,
)
"""A host with its port, a path in lower case, a tag of either case, a digest (github.com/distribution/reference)."""


@dataclass(frozen=True)
class Served:
    """What is deployed: `cpus` whole cores, `memory` a quantity (2Gi), the server's `command`, pods at most.

    `host` is the name that clients outside of the cluster use.
    """

    project: str
    image: str
    cpus: int
    memory: str
    command: Sequence[str]
    max_pods: int = 1
    host: str = ""

    @property
    def name(self) -> str:
        """The project as Kubernetes takes a name."""
        return self.project.replace("_", "-")

    @property
    def labels(self) -> dict[str, str]:
        """What selects its pods."""
        return {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": self.name}

    @property
    def meta(self) -> dict[str, Any]:
        """Name and labels of each of its manifests."""
        return {"name": self.name, "labels": self.labels}


def manifests(served: Served) -> dict[str, dict[str, Any]]:
    """Every manifest by its file's name, for Kustomize. Raises ValueError for what Kubernetes refuses."""
    check(served)
    found = {
        "namespace.yaml": access.namespace(served), **workload(served), "disruption.yaml": access.disruption(served),
        "network.yaml": access.network(served), "ingress.yaml": access.ingress(served),
        "users.yaml": access.users(served),
    }  # fmt: skip
    if served.max_pods > 1:
        found["autoscaler.yaml"] = access.autoscaler(served)
    return {"kustomization.yaml": access.kustomization(served, sorted(found)), **found}


def workload(served: Served) -> dict[str, dict[str, Any]]:
    """What runs: the volume of the prediction log, the Deployment, the Service.

    A single pod writes a volume of one node, so an update stops it before it starts the new one. Several share a volume
    that many nodes may write: each router writes files of its own.
    """
    name, meta, labels, several = served.name, served.meta, served.labels, served.max_pods > 1
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {**meta, "name": f"{name}-predictions"},
        "spec": {
            "accessModes": ["ReadWriteMany" if several else "ReadWriteOnce"],
            "resources": {"requests": {"storage": LOG_SIZE}},
        },
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            # Where there is an autoscaler the number is its own.
            **({} if several else {"replicas": 1}),
            "strategy": rolling if several else {"type": "Recreate"}, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod(served)},
        },
    }  # fmt: skip
    services = {
        f"service-{port}.yaml": _service(served, port, number, **more)
        for port, number, more in (
            ("http", HTTP, {}), ("grpc", GRPC, {"suffix": "-grpc", "annotations": access.CLEAR_HTTP2}),
        )
    }  # fmt: skip
    return {"volume.yaml": claim, "deployment.yaml": deployment, **services}


def _service(
    served: Served, port: str, number: int, suffix: str = "", annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    told = {"annotations": dict(annotations)} if annotations else {}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {**served.meta, "name": f"{served.name}{suffix}", **told},
        "spec": {
            "type": "ClusterIP", "selector": served.labels,
            "ports": [{"name": port, "port": number, "targetPort": port}],
        },
    }  # fmt: skip


def pod(served: Served) -> dict[str, Any]:
    """The spec of a pod: one container without any privilege."""
    name = served.name
    # Of the router, not of the server: a challenger that can't be loaded must not take the pod out.
    ready = {"httpGet": {"path": f"/v2/models/{served.project}/ready", "port": "http"}}
    live = {"httpGet": {"path": "/v2/health/live", "port": "http"}}
    container = {
        "name": "triton", "image": served.image, "command": list(served.command),
        "env": [{
            "name": ADMIN_KEY,
            "valueFrom": {"secretKeyRef": {"name": f"{name}-admin", "key": "key", "optional": True}},
        }],
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
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "temporary", "mountPath": "/tmp"},
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
            {"name": "temporary", "emptyDir": {"sizeLimit": TEMPORARY}},
            {"name": "predictions", "persistentVolumeClaim": {"claimName": f"{name}-predictions"}},
            # The router's process exchanges tensors with the server through it; the default of 64 MiB is too small.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        ],
    }  # fmt: skip


def check(served: Served) -> None:
    """That Kubernetes takes names, quantities and numbers. Raises ValueError."""
    if not _NAME.fullmatch(served.name):
        raise ValueError(
            f"found the project {served.project!r}; expected lower case letters, digits and - after a letter, which "
            "Kubernetes takes as a name"
        )
    if not _QUANTITY.fullmatch(served.memory):
        raise ValueError(f"found --memory {served.memory!r}; expected a quantity such as 2Gi or 900M")
    if served.max_pods < 1:
        raise ValueError(f"found --max-pods {served.max_pods}; expected 1 or more")
    if served.host and not _HOST.fullmatch(served.host):
        raise ValueError(f"found --host {served.host!r}; expected a DNS name such as models.example.org")
    require_image(served.image, "--image")


def require_image(image: str, option: str) -> None:
    """That an image is named with a tag or a digest. Raises ValueError."""
    named = _IMAGE.fullmatch(image)
    if named is None or (named["digest"] is None and named["tag"] in (None, "latest")):
        raise ValueError(
            f"found {option} {image!r}; expected an image with a tag or digest of its own, such as "
            "registry.example/team/digits:1"
        )
