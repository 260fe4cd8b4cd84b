"""A compose file of a served bundle: the server alone, reachable from the machine itself; plain data."""

from __future__ import annotations

from typing import Any

from dl_pipelines.bundles.kubernetes import ADMIN_KEY, GRPC, HOME, HTTP, METRICS, Served


def compose(served: Served) -> dict[str, Any]:
    """One service that is built from the bundle's folder. Ports are of loopback: put what has TLS and users in front.

    The health check asks for the router, as clients do.
    """
    ready = f"curl -fsS http://127.0.0.1:{HTTP}/v2/models/{served.project}/ready"
    server = {
        "image": served.image, "build": {"context": ".", "dockerfile": "Containerfile"},
        "environment": {ADMIN_KEY: f"${{{ADMIN_KEY}:-}}"},
        "ports": [f"127.0.0.1:{port}:{port}" for port in (HTTP, GRPC, METRICS)],
        "volumes": [f"predictions:{HOME}/predictions"],
        "read_only": True, "tmpfs": ["/tmp"], "shm_size": "1gb", "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"], "restart": "unless-stopped", "stop_grace_period": "30s",
        "healthcheck": {
            "test": ["CMD-SHELL", ready], "interval": "5s", "timeout": "3s", "retries": 3, "start_period": "60s",
        },
        "deploy": {"resources": {"limits": {"cpus": str(served.cpus), "memory": _bytes(served.memory)}}},
    }  # fmt: skip
    return {"name": served.name, "services": {"triton": server}, "volumes": {"predictions": {}}}


def _bytes(quantity: str) -> str:
    """A quantity of Kubernetes (2Gi) in compose's words (2g); its k, m, g are powers of 1024."""
    digits = quantity.rstrip("KMGTki")
    powers = {"k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    unit = quantity[len(digits) :]
    return str(int(digits) * powers.get(unit, 1)) + "b"
