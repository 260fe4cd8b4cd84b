import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from dl_pipelines.brief.sections import Compression
from dl_pipelines.brief.targets import Target
from dl_pipelines.compression.base import Technique, TechniqueError, Variant
from dl_pipelines.compression.chain import Chain
from dl_pipelines.compression.static_int8 import StaticInt8
from dl_pipelines.compression.trials import Bench
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.inference.parity import torch_outputs


class Fake(Technique):
    """`make(start, shop)` gives the variants; notes what it began from."""

    name, phase, template_row = "fake", "prune", "PRUNE"

    def __init__(self, make=None, name="fake", why=None):
        super().__init__(None)
        self.make, self.name, self.why, self.starts = make, name, why, []

    def unsuited(self, start, shop):
        return self.why

    def variants(self, start, shop):
        self.starts.append(start.name)
        found = self.make(start, shop)
        return found if isinstance(found, list) else [found]


def int8(**params):
    return StaticInt8(StaticInt8.Params(calibration_rows=16, ranges=("full",), **params))


def copied(network, folder, weights=0):
    """The network's ONNX with so many bytes more."""
    import onnx

    model = onnx.load(str(network.onnx))
    if weights:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(weights, np.uint8), "unused"))
    path = folder / f"{network.name}_{weights}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def reference(networks, wide_task, wide_rows):
    return torch_outputs(networks["wide"].plan.load(wide_task, networks["wide"].weights), wide_rows.inputs)


@pytest.fixture
def kept():
    """Choices, as a store keeps them: as JSON."""
    return {}


@pytest.fixture
def start(networks, reference, wide_task, wide_rows, tmp_path, kept):
    """`start(**section)`: a chain that has its baseline; what it told is `chain.told`."""

    def make(folder="steps", targets=(), **section):
        told = []

        def decide_once(name, measure):
            if name not in kept:
                kept[name] = json.dumps(measure(), allow_nan=False)
            return json.loads(kept[name])

        compression = Compression(
            **{"objective": "size", "runtimes": ("onnxruntime",), "max_loss": 1.0, "timing_rounds": 5} | section
        )
        bench = Bench(wide_task, wide_rows, reference, 1, 5, targets=targets, objective=compression.objective)
        shop = Workshop(
            bench, compression, None, replace(networks["wide"], name="fp32"), None, tmp_path / folder,
            lambda count: wide_rows.inputs[:count], decide_once, lambda *given: told.append(given),
        )  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        chain = Chain(shop, compression)
        chain.told = told
        return chain

    return make


def narrow(networks, name="pruned_75"):
    def make(start, shop):
        network = replace(networks["narrow"], name=name)
        return Variant(name, "fake", "fp32", network.onnx, network=network, details={"share": 0.75})

    return make


def verdicts(chain):
    return {
        f"{row['variant']} on {row['runtime']}": "serves" if row["chosen"] else "taken" if row["taken"] else
        "kept" if row["kept"] else "refused" for row in chain.rows()
    }  # fmt: skip


def measured(chain):
    return [message for message, *_ in chain.told if message == "timing them in turns"]


def test_a_chain_of_nothing_serves_the_trained_model(start, networks):
    chain = start(runtimes=("onnxruntime", "openvino"))
    assert verdicts(chain).keys() == {"fp32 on onnxruntime", "fp32 on openvino"}
    baseline = chain.rows()[0]
    assert (baseline["step"], baseline["phase"], baseline["against"]) == (0, "runtime", "fp32 on onnxruntime")
    assert baseline["reason"] == "the baseline: uncompressed, on the first runtime of the brief"
    assert baseline["gain"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert baseline["loss"] == {"value": 0, "low": 0, "high": 0}
    assert chain.network_of(chain.chosen()[1]).weights == networks["wide"].weights
    assert chain.export_parity(chain.chosen()[1]).passed


def test_a_runtime_that_is_better_at_once_is_the_strongest(start):
    chain = start(runtimes=("openvino", "onnxruntime"))
    first, second = chain.rows()
    assert first["size_mb"] > second["size_mb"]
    assert (first["taken"], second["taken"], second["chosen"]) == (True, True, True)
    chain.step(Fake(lambda start, shop: Variant("same", "fake", "fp32", start.onnx)))
    assert chain.rows()[-1]["against"] == "fp32 on onnxruntime"
    assert chain.rows()[-1]["gain"] is not None


def test_int8_of_a_network_that_was_taken_is_of_that_network(start, networks, wide_rows, wide_task):
    chain = start()
    fake = Fake(narrow(networks))
    chain.step(fake)
    chain.step(int8())
    assert fake.starts == ["fp32"]
    assert verdicts(chain) == {
        "fp32 on onnxruntime": "taken", "pruned_75 on onnxruntime": "taken", "static_int8 on onnxruntime": "serves",
    }  # fmt: skip
    first, pruned, quantized = chain.rows()
    assert (pruned["network"], quantized["network"]) == (True, False)
    assert (pruned["details"], pruned["against"]) == ({"share": 0.75}, "fp32 on onnxruntime")
    assert quantized["against"] == "pruned_75 on onnxruntime"
    assert first["size_mb"] > pruned["size_mb"] > quantized["size_mb"]
    row, candidate = chain.chosen()
    assert row is quantized
    small = networks["narrow"].plan.load(wide_task, networks["narrow"].weights)
    np.testing.assert_array_equal(chain.own(candidate), torch_outputs(small, wide_rows.inputs))
    assert chain.network_of(candidate).weights == networks["narrow"].weights
    assert chain.export_parity(candidate).passed


def test_a_graph_that_was_taken_is_not_what_later_steps_begin_from(start):
    chain = start()
    chain.step(int8())
    late = Fake(lambda start, shop: Variant("late", "fake", "fp32", start.onnx), "late")
    chain.step(late)
    assert late.starts == ["fp32"]
    assert verdicts(chain)["late on onnxruntime"] == "refused"
    assert chain.rows()[-1]["against"] == "static_int8 on onnxruntime"
    assert chain.rows()[-1]["reason"].startswith("not smaller: ")


def test_a_network_beyond_the_budget_is_not_what_later_steps_begin_from(start, networks, wide_task, tmp_path):
    import torch
    from safetensors.torch import save_file

    plan = networks["narrow"].plan
    network = plan.build(wide_task)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    save_file(network.state_dict(), tmp_path / "zeroed.safetensors")

    def make(start, shop):
        made = shop.export("zeroed", plan, tmp_path / "zeroed.safetensors")
        return Variant("zeroed", "fake", "fp32", made.onnx, network=made)

    chain = start(max_loss=0.005)
    chain.step(Fake(make))
    after = Fake(lambda start, shop: [], "after")
    chain.step(after)
    assert after.starts == ["fp32"]
    zeroed = chain.rows()[1]
    assert zeroed["loss"]["value"] == pytest.approx(0.5, abs=0.05)
    assert zeroed["reason"].startswith("loses 0.")
    assert zeroed["reason"].endswith("accuracy; the budget is 0.005")


@pytest.mark.parametrize(
    ("technique", "reason"),
    [
        (Fake(None, why="found no convolution; expected one"), "not tried: found no convolution; expected one"),
        (Fake(lambda start, shop: []), "could not be made: it gave no variant"),
    ],
)
def test_a_technique_without_variants_has_a_row_that_says_why(start, technique, reason):
    chain = start(runtimes=("onnxruntime", "openvino"))
    chain.step(technique)
    (row,) = [row for row in chain.rows() if row["step"] == 1]
    assert (row["variant"], row["technique"], row["phase"]) == ("fake", "fake", "prune")
    assert row["reason"] == reason


def test_a_technique_that_fails_is_in_the_ledger_and_the_chain_goes_on(start):
    def fail(start, shop):
        raise TechniqueError("found the operator If in layer 3; leave it out by layers: [3]")

    def want(start, shop):
        raise ModuleNotFoundError("No module named 'nncf'", name="nncf")

    chain = start()
    for technique in (Fake(fail), Fake(want, "nncf_int8"), int8()):
        chain.step(technique)
    reasons = {row["variant"]: row["reason"] for row in chain.rows()}
    assert reasons["fake"] == "could not be made: found the operator If in layer 3; leave it out by layers: [3]"
    assert reasons["nncf_int8"] == (
        "could not be made: found no package nncf; expected it for nncf_int8; install requirements.lock"
    )
    assert verdicts(chain)["static_int8 on onnxruntime"] == "serves"
    assert [row["step"] for row in chain.rows()] == [0, 1, 2, 3]


def test_a_fault_of_ours_is_not_a_row(start):
    def broken(start, shop):
        raise ModuleNotFoundError("No module named 'dl_pipelines.gone'", name="dl_pipelines.gone")

    with pytest.raises(ModuleNotFoundError, match="gone"):
        start().step(Fake(broken))


def test_a_variant_for_a_runtime_that_the_brief_leaves_out_says_so(start, networks):
    def make(start, shop):
        return Variant("nncf_int8", "nncf_int8", "int8", shop.folder / "no.xml", runtimes=("openvino",))

    chain = start()
    chain.step(Fake(make))
    assert chain.rows()[1]["runtime"] == "onnxruntime"
    assert (
        chain.rows()[1]["reason"]
        == "could not be made: it is for openvino, which compression.runtimes (onnxruntime) leaves out"
    )


def test_a_technique_named_twice_has_a_folder_and_names_of_its_own(start, networks):
    chain = start()
    chain.step(int8())
    chain.step(int8(per_channel=False))
    chain.step(Fake(narrow(networks, "fp32")))
    names = [row["variant"] for row in chain.rows()]
    assert names == ["fp32", "static_int8", "static_int8_2", "fp32_2"]
    assert {path.name for path in chain.shop.folder.iterdir()} >= {"static_int8", "static_int8_2"}
    assert chain.network_of(chain.chosen()[1]).name in names


def test_a_runtime_that_is_missing_has_rows_that_say_so(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    chain = start(runtimes=("onnxruntime", "openvino"))
    chain.step(int8())
    gone = [row for row in chain.rows() if row["runtime"] == "openvino"]
    assert [row["variant"] for row in gone] == ["fp32", "static_int8"]
    for row in gone:
        assert row["reason"].startswith("could not be made: found no runtime openvino here")
    assert verdicts(chain)["static_int8 on onnxruntime"] == "serves"


def test_a_baseline_whose_runtime_is_missing_is_an_error(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        ValueError, match=r"found no usable baseline \(found no runtime openvino here .*take openvino out"
    ):
        start(runtimes=("openvino", "onnxruntime"))


def test_a_second_run_measures_nothing_and_makes_only_what_was_taken(start, networks, kept):
    def chain_of(folder):
        chain = start(folder=folder)
        techniques = [Fake(narrow(networks)), Fake(lambda start, shop: Variant(
            "bigger", "late", "fp32", copied(start, shop.folder, 9999)), "late"), int8()]  # fmt: skip
        for technique in techniques:
            chain.step(technique)
        return chain, techniques

    first, _ = chain_of("first")
    again, (taken, refused, _) = chain_of("again")
    assert (len(measured(first)), len(measured(again))) == (4, 0)
    assert again.rows() == first.rows()
    assert (taken.starts, refused.starts) == (["fp32"], [])
    paths = [chain.chosen()[1].variant.path for chain in (first, again)]
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_interrupted_chain_goes_on_after_the_last_finished_step(start, networks):
    def interrupted(start, shop):
        raise KeyboardInterrupt

    chain = start()
    chain.step(Fake(narrow(networks)))
    with pytest.raises(KeyboardInterrupt):
        chain.step(Fake(interrupted, "late"))
    again, late = start(), Fake(lambda start, shop: Variant("late", "late", "fp32", start.onnx), "late")
    again.step(Fake(narrow(networks)))
    again.step(late)
    assert late.starts == ["pruned_75"]
    assert len(measured(again)) == 1
    assert [row["step"] for row in again.rows()] == [0, 1, 2]


@pytest.mark.parametrize(("gone", "why"), [(True, "it was not made"), (False, "no memory")])
def test_what_was_taken_but_can_not_be_made_again_is_an_error(start, networks, gone, why):
    start().step(Fake(narrow(networks)))
    made = [] if gone else Variant("pruned_75", "fake", "fp32", None, "no memory")
    with pytest.raises(ValueError, match=rf"found no pruned_75 on onnxruntime \({why}\), which an earlier build chose"):
        start().step(Fake(lambda start, shop: made))


def test_a_missed_target_is_seen_in_the_chain(start, networks):
    size = networks["wide"].onnx.stat().st_size / 1e6
    targets = (Target(metric="size_mb", op="<=", value=size / 2, where="compressed"),
               Target(metric="accuracy", value=0.5, where="trained"))  # fmt: skip
    chain = start(targets=targets)
    chain.step(Fake(narrow(networks)))
    told = [[(found["name"], found["met"]) for found in row["targets"]] for row in chain.rows()]
    assert told == [[(targets[0].name, False)], [(targets[0].name, True)]]


def test_progress_reads_as_what_is_done(start, networks):
    chain = start()
    chain.told.clear()
    chain.step(Fake(narrow(networks), "channel_pruning"))
    assert chain.told == [
        ("prune: channel pruning", None, None),
        ("scoring fp32 on onnxruntime", 0, 3),
        ("scoring pruned_75 on onnxruntime", 1, 3),
        ("timing them in turns", 2, 3),
    ]
