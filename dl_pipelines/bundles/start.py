"""How the server of a cloud bundle starts: one script in the image, whatever starts the container.

Loading, unloading and configuring models, shared memory, tracing and logging are for whoever has the admin key. gRPC
takes it as `triton-grpc-protocol-dlp-admin`, HTTP as `dlp-admin`.
"""

from __future__ import annotations

from collections.abc import Sequence

HEADER = "dlp-admin"
RESTRICTED = ("model-repository", "model-config", "shared-memory", "trace", "logging")
"""Triton's names of what a client has no business with; what is asked with a wrong key is refused."""


def restricted(key: str) -> list[str]:
    """Flags of tritonserver that ask for a key."""
    names = ",".join(RESTRICTED)
    return [f"--http-restricted-api={names}:{HEADER}={key}", f"--grpc-restricted-protocol={names}:{HEADER}={key}"]


def script(command: Sequence[str], variable: str) -> str:
    """A POSIX shell script that starts the server: with the admin key of a variable, else with one that nobody knows.

    The command's words are ours and a project's name; they need no quoting beyond quotes.
    """
    words = " \\\n    ".join(f'"{word}"' for word in [*command, *restricted("$key")])
    return f"""#!/bin/sh
# Starts Triton. {variable} is the key that loading and unloading models asks for.
set -eu
key=${{{variable}:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')}}
exec {words}
"""
