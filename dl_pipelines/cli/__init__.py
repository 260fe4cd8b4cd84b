"""The command line `dlp`: what it says and how it runs the line. No stage is here; see app.py for the commands."""

from dl_pipelines.cli.app import main

__all__ = ["main"]
