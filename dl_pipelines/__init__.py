"""dl-pipelines: from a brief to a served, compressed, monitored model.

The library: everything that can be tested without Dagster. Importing it imports nothing heavy.
"""

__version__ = "0.1.0"
