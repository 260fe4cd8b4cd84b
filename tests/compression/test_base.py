"""What techniques have in common: names of shares, reasons in short, graphs in one spelling."""

import onnx
import pytest
from onnx import TensorProto, helper

from dl_pipelines.compression.base import checked_bytes, share_name, short


@pytest.mark.parametrize(
    ("share", "name"),
    [(0.3, "30"), (0.29, "29"), (0.125, "12_5"), (0.995, "99_5"), (0.999, "99_9"), (0.12345, "12_35"), (1e-7, "1e-05")],
)
def test_a_share_is_named_in_percent_of_four_digits(share, name):
    assert share_name(share) == name


def test_a_reason_is_short():
    assert short(ValueError(f"\n{'long ' * 100}")) == f"ValueError: {('long ' * 100)[:200]}"


def graph(operator="Relu"):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return helper.make_model(helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y]))


def test_a_graph_is_checked_and_what_tools_noted_goes():
    noted = graph()
    helper.set_model_props(noted, {"made": "today"})
    assert checked_bytes(noted) == checked_bytes(graph()) == checked_bytes(graph(), shapes=True)
    with pytest.raises(onnx.checker.ValidationError, match="No Op registered for Rleu"):
        checked_bytes(graph("Rleu"))
