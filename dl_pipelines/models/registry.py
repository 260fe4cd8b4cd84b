"""The architecture families that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

FAMILIES = Kind(
    "family",
    {
        "cnn": "dl_pipelines.models.cnn:Cnn",
        "cnn_lstm": "dl_pipelines.models.forecasters:CnnLstm",
        "gru": "dl_pipelines.models.forecasters:Gru",
        "lstm_attention": "dl_pipelines.models.forecasters:LstmAttention",
        "nhits": "dl_pipelines.models.forecasters:Nhits",
        "patch_transformer": "dl_pipelines.models.forecasters:PatchTransformer",
        "tcn": "dl_pipelines.models.forecasters:Tcn",
    },
)
