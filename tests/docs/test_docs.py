"""The guide says what the code does: fields and defaults, commands, stages, names, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from assets.project import DATA, MODEL, WINDOW, names
from dl_pipelines import catalog
from dl_pipelines.brief import Brief, sections
from dl_pipelines.brief.targets import MEASURED_ON
from dl_pipelines.cli.app import app
from dl_pipelines.compression.static_int8 import StaticInt8
from dl_pipelines.data import augmentations
from dl_pipelines.models.cnn import Cnn
from dl_pipelines.tasks.image_classification import ImageClassification

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "brief.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("owner", [
    Cnn, StaticInt8, ImageClassification, augmentations.Rotation, augmentations.Translation, augmentations.Noise,
    augmentations.Brightness,
])  # fmt: skip
def test_params_are_in_the_reference(owner: type) -> None:
    for name in owner.Params.model_fields:  # pyright: ignore[reportAttributeAccessIssue]
        assert re.search(rf"[`{{]{name}\b", REFERENCE), f"{owner.__name__}: {name} is not in docs/brief.md"


def test_every_metric_is_in_the_reference() -> None:
    for name in (*ImageClassification.metrics, *MEASURED_ON):
        (row,) = [line for line in chapter("problem").splitlines() if line.startswith("|") and f"`{name}`" in line]
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


def test_the_example_of_a_brief_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    brief = Brief.model_validate(yaml.safe_load(example))
    assert not list(catalog.check_targets(brief))


def test_every_command_is_in_the_table() -> None:
    group = typer.main.get_command(app)
    found = set(re.findall(r"^\| `dlp ([a-z]+(?: (?:check|schema|new))?)", README, re.MULTILINE))
    commands = {name for name in group.commands if name != "brief"}  # pyright: ignore[reportAttributeAccessIssue]
    assert found == commands | {"brief check", "brief schema", "brief new"}


def test_options_are_named_as_they_are() -> None:
    group = typer.main.get_command(app)
    for row in re.findall(r"^\| `dlp ([a-z]+)[^|]*\|[^|]*\|$", README, re.MULTILINE):
        line = next(line for line in README.splitlines() if line.startswith(f"| `dlp {row}"))
        command = group.commands[row]  # pyright: ignore[reportAttributeAccessIssue]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_the_commands_that_answer_in_json_are_those_named() -> None:
    group = typer.main.get_command(app)
    answering = {
        name
        for name, command in group.commands.items()  # pyright: ignore[reportAttributeAccessIssue]
        if any("--json" in option.opts for option in command.params)
    }
    (told,) = re.findall(r"^(.*) take `--json`", README, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", told)) == answering


def test_stages_are_in_the_table_and_the_picture_in_order() -> None:
    assert re.findall(r"^\| `([a-z_]+)` \|", README, re.MULTILINE) == STAGES
    picture = (ROOT / "docs" / "assets.svg").read_text(encoding="utf-8")
    assert set(re.findall(r">([a-z]+_[a-z]+|evaluation)<", picture)) == set(STAGES)


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
