"""Assets are thin: about ten lines each, nothing is caught, computed or decided in them (STYLE and DESIGN say why)."""

import ast
import re
from pathlib import Path

import pytest

from assets import project
from dl_pipelines.training.selected import CHOOSING

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "assets").glob("*.py"))
STAGES = project.names((*project.DATA, *project.WINDOW, *project.MODEL))
NUMBERS = {
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow",
    "lance",
    "onnxruntime",
    "great_expectations",
    "evidently",
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_caught_and_no_tensors(path):
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Try), f"line {node.lineno}: errors become Dagster's in resources/attempt.py"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.partition(".")[0] for name in names} & NUMBERS, f"line {node.lineno}: that is the library's"


@pytest.mark.parametrize("stage", STAGES)
def test_an_asset_is_about_ten_lines(stage):
    module = tree(ROOT / "assets" / f"{stage}.py")
    (asset,) = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == stage]
    logic = [node for node in ast.walk(asset) if isinstance(node, ast.stmt)]
    assert len(logic) <= 12, "decisions are the library's"
    assert ast.get_docstring(module)


def test_one_file_a_stage():
    assert {path.stem for path in FILES} == {*STAGES, "__init__", "partitions", "project", "stage"}


def reads(path: Path) -> set[str]:
    """The stages whose artifact the stage's library function asks the workspace for, or whose choice it goes by."""
    found = set(re.findall(r'workspace\.get\("(\w+)"', path.read_text(encoding="utf-8")))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "selected":
            found |= set(
                next((ast.literal_eval(item.value) for item in node.keywords if item.arg == "stages"), CHOOSING)
            )
    return found


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("training_window", "implementation_report")])
def test_what_a_stage_reads_is_what_it_depends_on(stage):
    (library,) = [
        path
        for path in (ROOT / "dl_pipelines").rglob("*.py")
        if f"\ndef make_{stage}(" in path.read_text(encoding="utf-8")
    ]
    call = next(
        node
        for node in ast.walk(tree(ROOT / "assets" / f"{stage}.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "stage_asset"
    )
    declared = next((ast.literal_eval(item.value) for item in call.keywords if item.arg == "deps"), ())
    assert set(declared) == reads(library)
