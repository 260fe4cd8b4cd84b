"""How the server of a cloud bundle starts: one script in the image, whatever starts the container.

Loading, unloading and configuring models, shared memory, tracing and logging are for whoever has the admin key
(serving/admin.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from dl_pipelines.serving.admin import restricted


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
