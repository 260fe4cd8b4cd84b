"""The rules of the house that a tool can hold: import direction, nothing that unpickles, no machine's own path."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    *("torch", "torchvision", "great_expectations", "evidently", "lance", "pyarrow", "pandas", "scipy"),
    *("onnx", "onnxruntime", "openvino", "sklearn", "tritonclient", "PIL", "horovod", "matplotlib"),
}


def our_files(pattern: str = "*") -> list[Path]:
    """Tracked files and those that will be: what a commit could name."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [item for item in settings["contracts"] if item["type"] == "layers"]
    return [name.strip("() ") for line in contract["layers"] for name in line.split("|")]


def test_imports_point_one_way():
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_room_has_its_place_in_the_layers():
    package = ROOT / "dl_pipelines"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    placed = {name.removeprefix("dl_pipelines.") for name in layers()}
    assert rooms <= placed, f"add {sorted(rooms - placed)} to the layers in pyproject.toml"


@pytest.mark.parametrize(
    "module", ["dl_pipelines.brief", "dl_pipelines.catalog", "dl_pipelines.doctor", "dl_pipelines.definitions"]
)
def test_importing_loads_nothing_heavy(module):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert not HEAVY & set(loaded.stdout.split())


def test_checking_a_brief_loads_nothing_heavy():
    program = (
        "import sys; from pathlib import Path; from dl_pipelines.catalog import load_brief;"
        " [load_brief(path) for path in sorted(Path('briefs').glob('*.yaml'))];"
        " print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert not (HEAVY | {"numpy", "dagster"}) & set(loaded.stdout.split())


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level names of everything a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_the_wire_needs_the_standard_library_and_numpy_only():
    for path in our_files("dl_pipelines/wire/*.py"):
        others = set(imported(ast.parse(path.read_text()))) - sys.stdlib_module_names - {"numpy"}
        assert not others, f"{path.relative_to(ROOT)} imports {sorted(others)}: it is copied beside the router"


def test_only_tests_use_tests():
    """What a benchmark needs too is in benchmarks/, which tests may import; to run a test's module is to use it."""
    found = [path.relative_to(ROOT) for path in our_files("*.py") if path.relative_to(ROOT).parts[0] != "tests"]
    uses = re.compile(r"\b(from|import) tests\b|[\"']tests\.\w")
    assert [name for name in found if uses.search((ROOT / name).read_text(encoding="utf-8"))] == []


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    *("torch.load", "torch.save", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "telnetlib"),
}


def violations(tree: ast.AST) -> Iterator[str]:
    """What a module does that this project never does, with its line."""
    for name in set(imported(tree)) & FORBIDDEN_MODULES:
        yield f"imports {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"
        for keyword in node.keywords:
            truth = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            if keyword.arg in ("shell", "allow_pickle") and truth:
                yield f"line {node.lineno}: {keyword.arg}=True"


def test_nothing_unpickles_evaluates_or_starts_a_shell():
    found = {}
    for path in our_files("*.py"):
        if bad := list(violations(ast.parse(path.read_text(encoding="utf-8")))):
            found[str(path.relative_to(ROOT))] = bad
    assert not found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("import torch\ntorch.load('x')", "line 2: torch.load"),
        ("import yaml\nyaml.load(text)", "line 2: yaml.load"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "line 2: shell=True"),
        ("numpy.load('x', allow_pickle=True)", "line 1: allow_pickle=True"),
        ("eval('1')", "line 1: eval"),
    ],
)
def test_the_rule_above_sees(source, expected):
    assert list(violations(ast.parse(source))) == [expected]


def asks_for_a_task(tree: ast.AST) -> Iterator[str]:
    """Where a module decides by which task it has, with its line: what differs goes through the task's contract."""
    from dl_pipelines.tasks.registry import TASKS

    names, classes = set(TASKS.names), {TASKS.load(name).__name__ for name in TASKS.names}
    for node in ast.walk(tree):
        asks = False
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asks = any(isinstance(side, ast.Constant) and side.value in names for side in sides)
            asks |= any(ast.unparse(side).endswith("task.name") for side in sides)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asks = bool(classes & set(re.findall(r"\w+", ast.unparse(node.args[1]))))
        if asks:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_nobody_asks_which_task_it_is():
    found = {}
    for path in our_files("*.py"):
        place = path.relative_to(ROOT)
        if place.parts[0] not in ("dl_pipelines", "assets", "resources", "sensors") or "tasks" in place.parts:
            continue
        if bad := list(asks_for_a_task(ast.parse(path.read_text(encoding="utf-8")))):
            found[str(place)] = bad
    assert not found


@pytest.mark.parametrize(
    "source",
    ["task.name == 'forecasting'", "brief.problem.task.name in found", "isinstance(task, forecasting.Forecasting)",
     "'image_classification' != name"],
)  # fmt: skip
def test_the_rule_about_tasks_sees(source):
    assert list(asks_for_a_task(ast.parse(source))) == [f"line 1: {source}"]


MACHINE_PATH = re.compile(r"(?<![\w.})/<-])/(?:work|root|Users|home/[a-z]+|tmp/dlp)/\w")
ADDRESS = re.compile("|".join(("py" + "pi.org", "python" + "hosted", "download.py" + "torch", "npm" + "js.org")))


def test_nothing_names_a_machine_or_a_registry():
    found = []
    for path in our_files():
        if path == Path(__file__).resolve() or path.suffix in {".png", ".jpg", ".onnx", ".lance", ".npy"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{path.relative_to(ROOT)}: {match.group()}"
            for rule in (MACHINE_PATH, ADDRESS)
            for match in rule.finditer(text)
        ]
    assert not found


@pytest.mark.parametrize("lock", sorted(ROOT.glob("requirements*.lock")), ids=lambda path: path.name)
def test_locks_are_pinned_by_hash_without_addresses(lock):
    text = lock.read_text()
    assert "://" not in text
    pins = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^ *#.*\n", "", text).strip())
    assert pins
    for pin in pins:
        assert re.match(r"[\w.\[\],-]+==[\w.+!]+( ; [^\n]+)? \\\n", pin), pin[:80]
        assert "--hash=sha256:" in pin


def test_set_up_starts_with_the_locked_uv():
    versions = [
        re.search(r"(?m)^uv==\S+", (ROOT / name).read_text())
        for name in ("requirements.lock", "requirements-bootstrap.lock")
    ]
    assert all(versions)
    assert len({match.group() for match in versions if match}) == 1
