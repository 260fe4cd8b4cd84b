"""The compression techniques that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.references import TechniqueRef
from dl_pipelines.brief.registry import Kind
from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import PHASES, Technique

TECHNIQUES = Kind(
    "technique",
    {
        "architecture_search": "dl_pipelines.compression.architecture_search:ArchitectureSearch",
        "distillation": "dl_pipelines.compression.distillation:Distillation",
        "dynamic_int8": "dl_pipelines.compression.dynamic_int8:DynamicInt8",
        "mixed_precision": "dl_pipelines.compression.mixed_precision:MixedPrecision",
        "nncf_int8": "dl_pipelines.compression.nncf_int8:NncfInt8",
        "pruning": "dl_pipelines.compression.pruning:Pruning",
        "quantization_aware": "dl_pipelines.compression.quantization_aware:QuantizationAware",
        "sparsity": "dl_pipelines.compression.sparsity:Sparsity",
        "static_int8": "dl_pipelines.compression.static_int8:StaticInt8",
    },
)
ALL = (
    "architecture_search", "distillation", "pruning", "sparsity", "static_int8", "dynamic_int8", "nncf_int8",
    "quantization_aware", "mixed_precision",
)  # fmt: skip
"""What `techniques: all` means, in this order: quantization-aware training looks at what the others lost."""


def techniques_of(compression: Compression) -> list[Technique]:
    """The brief's techniques in the order of their phases."""
    asked = compression.techniques
    refs = [TechniqueRef(name=name) for name in ALL] if asked == "all" else asked
    made: list[Technique] = [TECHNIQUES.make(ref) for ref in refs]
    return sorted(made, key=lambda technique: PHASES.index(technique.phase))
