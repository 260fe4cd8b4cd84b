"""A registry imports what is named, when it is named, and knows the closest name."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from dl_pipelines.brief import Kind, Named, UnknownName
from dl_pipelines.models.cnn import Cnn

FAMILIES = Kind("family", {"cnn": "dl_pipelines.models.cnn:Cnn", "gone": "dl_pipelines.models.gone:Gone"})


def test_an_instance_is_made_with_its_params():
    made = FAMILIES.make(Named(name="cnn", params={"width": 8}))
    assert isinstance(made, Cnn)
    assert (made.params.width, made.params.blocks) == (8, 2)


def test_wrong_params_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 4"):
        FAMILIES.make(Named(name="cnn", params={"width": 1}))
    with pytest.raises(ValidationError, match="frozen"):
        FAMILIES.make(Named(name="cnn")).params.width = 9


def test_nothing_is_imported_before_it_is_named():
    assert FAMILIES.names == ["cnn", "gone"]
    assert "dl_pipelines.models.gone" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="gone"):
        FAMILIES.load("gone")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cn", "no family is called 'cn'; expected one of cnn, gone (did you mean 'cnn'?)"),
        ("tree", "no family is called 'tree'; expected one of cnn, gone"),
    ],
)
def test_an_unknown_name_is_told_with_the_closest(name: str, message: str):
    with pytest.raises(UnknownName) as caught:
        FAMILIES.load(name)
    assert str(caught.value) == message
