"""`dlp verify` as a user types it: the exit code, the table, and the sentence that says where the chain breaks."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Made
from tests.small import small, write


def test_a_sound_model_passes(dlp, made: Made):
    said = dlp("verify", "small", "--home", made.home)
    assert said.code == 0
    assert "small 2026-01-03|base, compressed_model " in said.out
    for link in ("onnx", "optimised", "quantized"):
        assert f"│ {link} " in said.out
    assert "NO" not in said.out
    assert said.out.endswith("the chain holds from torch to fp32 on onnxruntime, as it serves\n")
    found = dlp("verify", "small", "--date", "2026-01-01", "--home", made.home, "--json").json
    assert (found["partition"], found["sound"], found["breaks_at"]) == ("2026-01-01|base", True, None)
    assert [(link["name"], link["passed"]) for link in found["links"]] == [
        ("onnx", True), ("optimised", True), ("quantized", True),
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["norm-swap", "dropped-operator", "perturbed-weights"])
@pytest.mark.parametrize(
    "at, between",
    [
        ("onnx", "torch and ONNX"),
        ("optimised", "ONNX and float32 optimised by onnxruntime"),
        ("quantized", "float32 optimised by onnxruntime and fp32 on onnxruntime, as it serves"),
    ],
)
def test_a_fault_is_found_where_it_is(dlp, made: Made, fault, at, between):
    said = dlp("verify", "small", "--inject", fault, "--at", at, "--home", made.home)
    assert said.code == 3
    assert f"injected {fault} at {at}: " in said.out
    assert f"the chain breaks at {at}, between {between}: " in said.out
    assert "largest difference <= 0.001" in said.out


def test_the_fault_is_in_the_object(dlp, made: Made):
    said = dlp("verify", "small", "--inject", "norm-swap", "--home", made.home, "--json")
    assert said.code == 3
    found = said.json
    assert (found["sound"], found["breaks_at"], found["between"]) == (False, "onnx", ["torch", "ONNX"])
    injected = found["injected"]
    assert (injected["fault"], injected["at"]) == ("norm-swap", "onnx") and injected["moved"] > 0.1
    assert "swapped" in injected["what"]


@pytest.mark.parametrize(
    "given, told",
    [
        (("small", "--inject", "rust"), "found --inject 'rust'; expected one of norm-swap, dropped-operator"),
        (("small", "--at", "onnx"), "found --at onnx without --inject; expected the fault that goes there"),
        (("small", "--at", "torch"), "found --at 'torch'; expected one of onnx, optimised, quantized"),
        (("small", "--date", "2027-01-01"),
         "found no compressed model of small for 2027-01-01 and base; expected one of 2026-01-01|base, 2026"),
        (("small", "--experiment", "other"), "found no experiment 'other' of small; expected one of base"),
        (("nothing",), "found no project 'nothing'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_a_sentence(dlp, made: Made, given, told):
    said = dlp("verify", *given, "--home", made.home)
    assert said.code == 2
    assert told in said.err


def test_a_project_without_models_says_so(dlp, tmp_path):
    home = tmp_path / "home"
    write(home / "briefs", small())
    said = dlp("verify", "small", "--home", home)
    assert said.code == 2
    assert "found no compressed model of small for any day and base; expected one of none yet" in said.err


def test_a_fault_that_is_not_noticed_and_noise_that_is_not_judged_are_said():
    from dataclasses import replace
    from datetime import date
    from types import SimpleNamespace
    from typing import Any

    from dl_pipelines.cli.verify import told
    from dl_pipelines.compression.verify import Verified
    from dl_pipelines.inference.faults import Injected
    from dl_pipelines.inference.parity_chain import Link
    from dl_pipelines.store.workspace import Partition

    sound = Link("quantized", "int8 on openvino, as it serves", "ONNX", True, 9, 0.1, 0.01, 1.0, "9 rows")
    artifact: Any = SimpleNamespace(digest="f00")
    injected = Injected("perturbed-weights", "w perturbed", 0.004)
    found = Verified(Partition(date(2026, 1, 1), "base"), artifact, [sound], injected, "quantized")
    assert told(found) == [
        "injected perturbed-weights at quantized: w perturbed; it moves answers by 0.004 of their size",
        "the chain holds from torch to int8 on openvino, as it serves: the fault was not noticed",
    ]
    assert found.plain()["injected"]["moved"] == 0.004
    unjudged = replace(found, links=[replace(sound, not_judged="why")], injected=None)
    assert told(unjudged) == ["the chain holds from torch to int8 on openvino, as it serves; noise not judged: why"]
