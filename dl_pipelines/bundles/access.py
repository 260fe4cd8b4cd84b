"""Manifests about who reaches a served bundle and how many pods answer: TLS, users, network, scaling, Kustomize.

Users and TLS are Traefik's (`traefik.io/v1alpha1`): Kubernetes itself has no word for a password at an Ingress, and
ingress-nginx is no longer kept up. Plain data; nothing here talks to a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dl_pipelines.bundles.kubernetes import Served

INGRESS_NAMESPACE, MONITORING_NAMESPACE = "traefik", "monitoring"
CPU_PERCENT = 70
EXAMPLE_HOST = "models.example.org"
CLEAR_HTTP2 = {"traefik.ingress.kubernetes.io/service.serversscheme": "h2c"}
"""How Traefik talks to a service of gRPC inside the cluster."""


def autoscaler(served: Served) -> dict[str, Any]:
    """Pods by the CPU that they use; slow to take one away, since load comes in waves."""
    usage = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": served.meta,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": served.name},
            "minReplicas": 2, "maxReplicas": served.max_pods,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": usage}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }  # fmt: skip


def namespace(served: Served) -> dict[str, Any]:
    """A namespace of its own, in which only pods without any privilege start."""
    labels = {**served.labels, "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": served.name, "labels": labels}}


def disruption(served: Served) -> dict[str, Any]:
    """Nodes are emptied one pod at a time; a single pod may go, or no node could ever be emptied."""
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": served.meta,
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": served.labels}},
    }  # fmt: skip


def network(served: Served) -> dict[str, Any]:
    """Requests come from the ingress only, metrics are read by the monitoring only, and nothing is asked outside."""

    def within(namespace: str, *ports: str) -> dict[str, Any]:
        labels = {"kubernetes.io/metadata.name": namespace}
        return {
            "from": [{"namespaceSelector": {"matchLabels": labels}}],
            "ports": [{"protocol": "TCP", "port": port} for port in ports],
        }

    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": served.meta,
        "spec": {
            "podSelector": {"matchLabels": served.labels}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [within(INGRESS_NAMESPACE, "http", "grpc"), within(MONITORING_NAMESPACE, "metrics")],
            "egress": [],
        },
    }  # fmt: skip


def ingress(served: Served) -> dict[str, Any]:
    """HTTP and gRPC of the router under one name, with TLS and a password; control requests have no path here."""
    name, host = served.name, served.host or EXAMPLE_HOST

    def path(prefix: str, service: str, port: str) -> dict[str, Any]:
        return {
            "path": prefix, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"name": port}}},
        }  # fmt: skip

    paths = [path(f"/v2/models/{served.project}", name, "http")]
    paths += [
        path(f"/inference.GRPCInferenceService/{call}", f"{name}-grpc", "grpc")
        for call in ("ModelInfer", "ModelReady", "ModelMetadata")
    ]
    annotations = {
        "traefik.ingress.kubernetes.io/router.entrypoints": "websecure",
        "traefik.ingress.kubernetes.io/router.middlewares": f"{name}-{name}-users@kubernetescrd",
    }
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {**served.meta, "annotations": annotations},
        "spec": {
            "ingressClassName": "traefik", "tls": [{"hosts": [host], "secretName": f"{name}-tls"}],
            "rules": [{"host": host, "http": {"paths": paths}}],
        },
    }  # fmt: skip


def users(served: Served) -> dict[str, Any]:
    """Who may ask: the names and hashed passwords (htpasswd) of a Secret that the operator makes."""
    return {
        "apiVersion": "traefik.io/v1alpha1", "kind": "Middleware",
        "metadata": {**served.meta, "name": f"{served.name}-users"},
        "spec": {"basicAuth": {"secret": f"{served.name}-users", "removeHeader": True}},
    }  # fmt: skip


def kustomization(served: Served, files: Sequence[str]) -> dict[str, Any]:
    """The files together, in a namespace of the project's name."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": served.name,
        "resources": list(files),
    }  # fmt: skip
