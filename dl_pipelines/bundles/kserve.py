"""A KServe InferenceService of a served bundle: the same image, for clusters that have KServe instead of our manifests.

KServe's own storage initializer and Triton runtime would load one model from a bucket; ours needs its router beside it,
so the container is our own (`predictor.containers`).
"""

from __future__ import annotations

from typing import Any

from dl_pipelines.bundles.kubernetes import HTTP, Served, pod


def inference_service(served: Served) -> dict[str, Any]:
    """The InferenceService, in KServe's raw deployment mode: its pods are those of the Deployment."""
    inside = pod(served)
    (container,) = inside.pop("containers")
    # KServe names it, finds its one port by protocol, and counts pods by the CPU.
    container = {**container, "name": "kserve-container", "ports": [{"name": "http1", "containerPort": HTTP}]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container[probe] = {**container[probe], "httpGet": {**container[probe]["httpGet"], "port": HTTP}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {
            **served.meta, "annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"},
        },
        "spec": {
            "predictor": {
                "minReplicas": 1 if served.max_pods == 1 else 2, "maxReplicas": served.max_pods,
                "scaleMetric": "cpu", "scaleTarget": 70, **inside, "containers": [container],
            },
        },
    }  # fmt: skip
