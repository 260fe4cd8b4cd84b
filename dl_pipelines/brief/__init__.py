"""The brief's frame: its sections, loading with errors that point at the line, overrides. No stage code lives here."""

from dl_pipelines.brief.errors import BriefError, Problem
from dl_pipelines.brief.loading import brief_from, load_brief, read_brief
from dl_pipelines.brief.overrides import BASE, experiment_name, parse_settings, with_overrides
from dl_pipelines.brief.registry import Kind, Named, Params, UnknownName
from dl_pipelines.brief.sections import Brief
from dl_pipelines.brief.targets import Target

__all__ = [
    "BASE",
    "Brief",
    "BriefError",
    "Kind",
    "Named",
    "Params",
    "Problem",
    "Target",
    "UnknownName",
    "brief_from",
    "experiment_name",
    "load_brief",
    "parse_settings",
    "read_brief",
    "with_overrides",
]
