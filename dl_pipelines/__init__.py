"""dl-pipelines: from a brief to a served, compressed, monitored model.

The library: everything that can be tested without Dagster. Importing it imports nothing heavy.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime reports to its makers unless this is set before it is imported; children inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
