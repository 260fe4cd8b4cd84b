"""What the soak of the demo holds its end against; that takes a minute, so here it is a made one."""

from dataclasses import replace

import pytest

from benchmarks.soak_demo import Ran, wrong

ROWS = [
    {"at": f"2026-01-01T00:00:0{place}+00:00", "event": event, "model": model, "actor": "sensor", "reason": "for, it"}
    for place, (event, model) in enumerate(
        [("published", "a"), ("champion", "a"), ("published", "b"), ("challenger", "b"), ("published", "a"),
         ("published", "c"), ("challenger", "c"), ("challenger", "c"), ("champion", "c")]
    )
]  # fmt: skip
TOLD = "\n".join(
    ["What served when", *(f"2026-01-01 00:00:0{place} {row['event']:<10} {row['model']} by sensor: for, it"
                           for place, row in enumerate(ROWS) if row["event"] != "published"), "plots: there"]
)  # fmt: skip
DRAWN = '<svg xmlns="http://www.w3.org/2000/svg"><g><path class="band band-0"/></g></svg>'
PAGE = f"<h1>x</h1><h2>b against a: rolled back</h2>{DRAWN}<h2>c against a: promoted</h2><p/>{DRAWN}</body></html>"
EXPERIMENTS = [
    {"champion": "a", "challenger": "b", "state": "rolled back"},
    {"champion": "a", "challenger": "c", "state": "promoted"},
]
GOOD = Ran(0, {"experiments": EXPERIMENTS}, TOLD, ROWS, PAGE)


def test_a_demo_as_it_should_be():
    assert list(wrong(GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"code": 1, "given": None, "told": "no room"}, "it ended with exit code 1: no room"),
        (
            {"given": {"experiments": EXPERIMENTS[:1]}, "page": PAGE.partition("<h2>c")[0]},
            "found the experiments ['rol",
        ),
        ({"told": TOLD.replace("champion   c", "champion   d")}, "found ['2026-01-01 00:00:01 champion   a by sensor"),
        ({"told": ""}, "found [] printed, and ["),
        ({"ledger": ROWS[:-1], "told": TOLD.replace(TOLD.splitlines()[-2], "")}, "found the champions ['a']; expected"),
        ({"page": PAGE.replace(DRAWN, "", 1)}, "found no plot of b against a: rolled back in the page"),
        ({"page": PAGE.replace("band", "text")}, "found no plot of b against a"),
        ({"page": PAGE.replace("</svg></body>", "</body>")}, "found no plot of c against a"),
        ({"page": PAGE.replace("c against", "d against")}, "found the sections [('c against a: promoted', 'd against"),
        ({"page": ""}, "found the sections [('b against a: rolled back', ''), ('c against a: promoted', '')]"),
    ],
)
def test_what_would_be_seen(changed, said):
    found = list(wrong(replace(GOOD, **changed)))
    assert found and found[0].startswith(said), found
