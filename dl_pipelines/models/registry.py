"""The architecture families that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

FAMILIES = Kind(
    "family",
    {
        "autoencoder": "dl_pipelines.models.autoencoder:Autoencoder",
        "cnn": "dl_pipelines.models.cnn:Cnn",
        "cnn_lstm": "dl_pipelines.models.forecasters:CnnLstm",
        "conv_attention": "dl_pipelines.models.vit:ConvAttention",
        "gan": "dl_pipelines.models.gan:Gan",
        "gru": "dl_pipelines.models.forecasters:Gru",
        "lstm_attention": "dl_pipelines.models.forecasters:LstmAttention",
        "nhits": "dl_pipelines.models.forecasters:Nhits",
        "patch_transformer": "dl_pipelines.models.forecasters:PatchTransformer",
        "rnn_rows": "dl_pipelines.models.rnn_rows:RnnRows",
        "tcn": "dl_pipelines.models.forecasters:Tcn",
        "vit": "dl_pipelines.models.vit:Vit",
    },
)
