import pytest

from dl_pipelines.report.details import LONGEST, in_words


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({"calibration": "entropy", "rows": 256}, "calibration: entropy; rows: 256"),
        ({"left_in_float": ["/head/Gemm", "/a/Conv"]}, "left in float: /head/Gemm, /a/Conv"),
        ({"left_in_float": [], "found": {}}, "left in float: none; found: none"),
        ({"rank": {"value": 0.83, "low": 0.7, "high": 0.91}}, "rank: 0.83 [0.7,\N{NO-BREAK SPACE}0.91]"),
        ({"ok": True, "no": False, "nothing": None}, "ok: yes; no: no; nothing: none"),
        ({"channels": {"features.0": [32, 22]}}, "channels: features.0 (32, 22)"),
        ({"front": [["16x1", 0.97, 1.5], ["8x1", 0.9, 0.75]]}, "front: (16x1, 0.97, 1.5), (8x1, 0.9, 0.75)"),
        (
            {"students": [{"name": "a", "loss": 0.012}, {"name": "b", "loss": {"value": 1, "low": 0, "high": 2}}]},
            "students: (name a, loss 0.012), (name b, loss 1 [0,\N{NO-BREAK SPACE}2])",
        ),
        ({"tried": list(range(9))}, "tried: 0, 1, 2, 3, 4, 5, and 3 more"),
        ({"many": {str(place): place for place in range(14)}}, "many: " + ", ".join(f"{p} {p}" for p in range(12)) +
         ", and 2 more"),
    ],
)  # fmt: skip
def test_plain_data_reads_as_text(details, told):
    assert in_words(details) == told


def test_what_is_too_long_is_cut_and_says_so():
    text = in_words({"story": "word " * 1000})
    assert text.endswith(" ...") and len(text) <= LONGEST + 4
