import pytest
import torch

from dl_pipelines.brief.sections import Training
from dl_pipelines.training import precision
from dl_pipelines.training.precision import NoSuchHardware, choose

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


@needs_no_gpu
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"precision": "fp16"},
            r"found training.precision: fp16 and no GPU; expected fp32, bf16 or mixed on a CPU, or",
        ),
        (
            {"device": "cuda"},
            r"found training.device: cuda and no GPU \(torch .*\); expected one that torch.cuda.is_av",
        ),
    ],
)
def test_what_the_machine_has_not_is_said(changed, message):
    with pytest.raises(NoSuchHardware, match=message):
        choose(Training(**changed))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_tile": True}, "bf16"), ({"avx512_f": True, "avx512_bf16": False}, "fp32")],
)
def test_mixed_is_bf16_only_on_a_cpu_that_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(precision, "cpu_capabilities", lambda: capabilities)
    assert choose(Training(precision="mixed", device="cpu")).precision == expected


def test_an_older_torch_is_asked_otherwise(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.has_bf16(precision.cpu_capabilities())
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not precision.has_bf16(precision.cpu_capabilities())


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_of_the_format(name, dtype):
    numerics = choose(Training(precision=name, device="cpu"))
    assert numerics.scaler() is None
    with numerics.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_taken_where_there_is_one():
    numerics = choose(Training(precision="fp16"))
    assert (numerics.device.type, numerics.precision) == ("cuda", "fp16")
    assert numerics.scaler() is not None
