"""The guide says what the code does: fields and defaults, commands, stages, names, links."""

from __future__ import annotations

import json
import re
import runpy
import sys
from datetime import date, timedelta
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from assets.project import DATA, MODEL, WINDOW, names
from dl_pipelines import catalog
from dl_pipelines.brief import Brief, sections
from dl_pipelines.brief.targets import MEASURED_ON
from dl_pipelines.cli.app import app
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.sources.base import Source
from dl_pipelines.tasks.base import Task

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "brief.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FENCED = README.split("```")[1::2]
EXAMPLES = [block.removeprefix("yaml\n") for block in FENCED if block.startswith("yaml\n")]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
STAGES = names((*DATA, *WINDOW, *MODEL))
CHAPTERS = {name: field.annotation for name, field in Brief.model_fields.items() if name != "project"}


def chapter(name: str) -> str:
    """The text of one section of the reference."""
    found = re.search(rf"^## \d+\. {name}$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/brief.md has no chapter {name}"
    return found.group(1)


def shown(value: object) -> str:
    """A default as the reference writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_field_is_described_with_its_default(name: str) -> None:
    text, model = chapter(name), CHAPTERS[name]
    assert model is not None and issubclass(model, BaseModel)
    for field, about in model.model_fields.items():
        assert re.search(rf"`(\w+\.)?{field}[`.]|`\.?{field}`", text), f"{name}.{field} is not in docs/brief.md"
        lines = [line for line in text.splitlines() if f"{field}`" in line]
        if isinstance(about.default, bool | int | float) and lines:
            assert any(shown(about.default) in line for line in lines), f"{name}.{field}: default {about.default}"


def test_chapters_are_in_the_order_of_the_template() -> None:
    assert re.findall(r"^## \d+\. (\w+)$", REFERENCE, re.MULTILINE) == list(CHAPTERS)


def test_nested_fields_are_described() -> None:
    for prefix, model in (("validation", sections.Validation), ("split", sections.Split)):
        for field, about in model.model_fields.items():
            assert f"`{prefix}.{field}`" in chapter("data")
            if about.default is not None:
                assert shown(about.default) in chapter("data")


def test_every_registered_name_is_in_the_reference() -> None:
    for kind in catalog.KINDS.values():
        for name in kind.names:
            assert re.search(rf"`\[?{name}\b", REFERENCE), f"{kind.kind} {name} is not in docs/brief.md"


def about(name: str) -> str:
    """What the reference says of a registered name: its section, or the paragraph and table rows that begin with it."""
    section = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    if section:
        return section.group(1)
    rows = [line for line in REFERENCE.splitlines() if line.startswith(f"| `{name}` |")]
    blocks = re.split(r"\n\n+", REFERENCE)
    for place, block in enumerate(blocks):
        if re.match(rf"`{name}`", block):
            rows.append(block)
            rows += blocks[place + 1 : place + 2] if block.endswith(":") else []
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind.kind, name) for kind in catalog.KINDS.values() for name in kind.names]
)
def test_params_are_in_the_reference_with_their_defaults(kind: str, name: str) -> None:
    text = about(name)
    if kind == "family" and catalog.KINDS[kind].load(name).kind == "series":
        text += next(block for block in REFERENCE.split("\n\n") if block.startswith("All families of series"))
    for param, field in catalog.KINDS[kind].params_model(name).model_fields.items():
        assert re.search(rf"[`{{]{param}\b", text), f"{kind} {name}: {param} is not in docs/brief.md"
        value = field.default
        if isinstance(value, tuple) and value and isinstance(value[0], int | float):
            value = ", ".join(f"{item:g}" for item in value)
        if isinstance(value, bool | int | float | str) and (kind, param) != ("task", "history"):
            assert shown(value) in text, f"{kind} {name}: the default {value} of {param} is not in docs/brief.md"


def test_every_metric_is_in_the_reference() -> None:
    tasks = [catalog.KINDS["task"].load(name) for name in catalog.KINDS["task"].names]
    for name in (*(metric for task in tasks for metric in task.metrics), *MEASURED_ON):
        (row,) = [line for line in chapter("problem").splitlines() if re.match(rf"\| (`\w+`, )*`{name}`", line)]
        for place in MEASURED_ON.get(name, ("trained", "compressed", "served")):
            assert place in row, f"{name} is measured on {place}: {row}"


def test_the_example_of_an_error_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("briefs").mkdir()
    task = "{name: image_classification, params: {classes: [a, b]}}"
    text = f"project: mine\nproblem:\n  task: {task}\ndata:\n  source: digits\ntraining:\n  epoch: 3\n"
    Path("briefs/mine.yaml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["brief", "check", "briefs/mine.yaml"])
    (example,) = re.findall(r"^error: .*$", REFERENCE, re.MULTILINE)
    assert result.exit_code == 2
    assert " ".join(result.output.split()) == example


def test_the_examples_of_briefs_are_valid() -> None:
    for example in EXAMPLES:
        catalog.read_brief(example, "README.md")


def test_a_brief_of_ones_own_csv_is_short_and_finds_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = (block.strip() for block in FENCED if block.startswith("\ndate,product"))
    Path("sales.csv").write_text(lines, encoding="utf-8")
    brief = catalog.read_brief(EXAMPLES[1], "README.md")
    source, task = SOURCES.make(brief.data.source), catalog.task_of(brief)
    table, quarantined = source.read_day(source.default_day(), task)
    assert table["group"].to_pylist() == ["baguette", "croissant"]
    assert table["sold"].to_pylist() == [79, 121]
    assert table["price"].to_pylist() == [2.15, 1.6]
    assert quarantined == []
    assert len(EXAMPLES[1].splitlines()) <= 16


def test_the_example_of_a_client_sends_what_the_model_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tritonclient.grpc

    task = catalog.task_of(catalog.read_brief(EXAMPLES[1], "README.md"))
    given, gives = task.signature().inputs[0], task.signature().outputs[0]
    asked: list[tuple[str, tritonclient.grpc.InferInput, str]] = []

    class Client:
        def __init__(self, address: str):
            assert address == "127.0.0.1:8001"

        def infer(self, model: str, inputs: list[tritonclient.grpc.InferInput], request_id: str) -> Client:
            asked.append((model, inputs[0], request_id))
            return self

        def as_numpy(self, name: str) -> np.ndarray:
            assert name == gives.name
            return np.zeros((1, *gives.shape), np.float32)

    monkeypatch.setattr(tritonclient.grpc, "InferenceServerClient", Client)
    monkeypatch.setattr(sys, "argv", ["client.py", "127.0.0.1:8001"])
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "client.py").write_text(script, encoding="utf-8")
    runpy.run_path(str(tmp_path / "client.py"))
    ((model, tensor, _),) = asked
    content = tensor._get_content()
    assert isinstance(content, bytes)
    frame = np.frombuffer(content, np.float32).reshape(tensor.shape())
    assert (model, tensor.name(), tensor.datatype()) == ("bakery", given.name, "FP32")
    assert tuple(tensor.shape()) == (1, *given.shape)
    assert f"{task.signature().columns}".replace("'", '"') in script
    lines = ["date,item,sold,price"]
    lines += [f"{date(1970, 1, 1) + timedelta(days=int(day))},baguette,{'' if sold != sold else sold:},{2.15}"
              for day, _, sold, _ in frame[0].tolist()]  # fmt: skip
    (tmp_path / "baguette.csv").write_text("\n".join(lines), encoding="utf-8")
    np.testing.assert_array_equal(frame[0], task.read_input(str(tmp_path / "baguette.csv")))
    assert lines[-15].startswith("2026-01-13,baguette,80")


def test_the_days_that_a_csv_needs_are_as_told() -> None:
    brief = catalog.read_brief(EXAMPLES[1], "README.md")
    task, (told,) = catalog.task_of(brief), re.findall(r"It takes (\d+) days of records", README)

    def short(count: int) -> str | None:
        days = np.datetime64("2025-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
        table = pa.table({"event_time": days})
        return task.untrainable(table, task.split(table, days[-1].astype(date).date(), brief.data.split))

    assert short(int(told)) is None
    assert short(int(told) - 1) is not None


def test_every_member_of_a_task_is_explained() -> None:
    members = [name for name in vars(Task) if not name.startswith("_") and name != "Params"]
    members += [name for name in Task.__annotations__ if name not in ("name", "Params")]
    for name in members:
        assert f"`{name}`" in EXTENDING, f"Task.{name} is not in docs/extending.md"


def test_every_member_of_a_source_is_explained() -> None:
    for name in (name for name in vars(Source) if not name.startswith("_") and name not in ("Params", "require_day")):
        assert re.search(rf"`{name}[`(]", EXTENDING), f"Source.{name} is not in docs/extending.md"


def commands() -> dict[str, click.Command]:
    """Every command by its words: `run`, `brief check`."""
    found: dict[str, click.Command] = {}
    for name, command in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {word}": part for word, part in inner.items()} if inner else {name: command}
    return found


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `dlp ([a-z]+(?: [a-z]+)?)", README, re.MULTILINE)) == set(commands())


def test_the_example_of_a_request_is_a_digit_as_the_model_was_trained_on_it() -> None:
    from sklearn.datasets import load_digits

    (body,) = re.findall(
        r"infer -d '(\{.*?\})'\n", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (given,) = json.loads(body)["inputs"]
    expected = np.round(load_digits().images[0] * (255 / 16)).astype(np.uint8)
    np.testing.assert_array_equal(np.array(given["data"], np.uint8).reshape(given["shape"])[0, :, :, 0], expected)


def test_options_are_named_as_they_are() -> None:
    for line in README.splitlines():
        if found := re.match(r"\| `dlp ([a-z]+(?: [a-z]+)?)", line):
            options = commands()[found[1]].params
            known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_the_commands_that_answer_in_json_are_those_named() -> None:
    answering = {
        name.partition(" ")[0]
        for name, command in commands().items()
        if any("--json" in option.opts for option in command.params)
    }
    (told,) = re.findall(r"^(.*) take `--json`", README, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", told)) == answering


def test_stages_are_in_the_table_and_the_picture_in_order() -> None:
    assert re.findall(r"^\| `([a-z_]+)` \|", README, re.MULTILINE) == STAGES
    picture = (ROOT / "docs" / "assets.svg").read_text(encoding="utf-8")
    assert set(re.findall(r">([a-z]+_[a-z]+|evaluation|baselines)<", picture)) == set(STAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_variables_exist(page: Path) -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("dl_pipelines", "resources", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    )
    for name in set(re.findall(r"DLP_[A-Z_]+", page.read_text(encoding="utf-8"))):
        assert name in code, f"{page.name}: {name}"
