import pytest

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import PHASES
from dl_pipelines.compression.registry import ALL, TECHNIQUES, techniques_of


def compression(*techniques):
    return Compression.model_validate({"techniques": techniques})


def names(given):
    return [technique.name for technique in techniques_of(given)]


def test_all_is_every_technique_in_its_order():
    assert sorted(ALL) == TECHNIQUES.names
    made = techniques_of(Compression(techniques="all"))
    assert [technique.name for technique in made] == list(ALL)
    places = [PHASES.index(technique.phase) for technique in made]
    assert places == sorted(places)


def test_every_technique_is_called_as_it_is_registered():
    for name in TECHNIQUES.names:
        loaded = TECHNIQUES.load(name)
        assert loaded.name == name
        assert loaded.phase in PHASES
        assert loaded.template_row in ("QUANT", "PRUNE", "DISTIL", "NAS", "MIXED")


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        (["static_int8", "pruning", "distillation"], ["distillation", "pruning", "static_int8"]),
        (["quantization_aware", "static_int8"], ["quantization_aware", "static_int8"]),
        (["mixed_precision", "architecture_search"], ["architecture_search", "mixed_precision"]),
        ([], []),
    ],
)
def test_phases_decide_the_order_and_the_brief_within_them(asked, order):
    assert names(compression(*asked)) == order


def test_one_with_other_params_is_tried_too():
    first, second = techniques_of(
        compression("static_int8", {"name": "static_int8", "params": {"calibration_rows": 16}})
    )
    assert (first.params.calibration_rows, second.params.calibration_rows) == (256, 16)
