"""A fresh environment holds what was asked for, what that needs, and nothing else."""

from importlib import metadata

import pytest

from dl_pipelines.bundles.base import BundleError
from dl_pipelines.bundles.environment import closure, fresh_environment, requirements, run


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return fresh_environment(tmp_path_factory.mktemp("environment") / "venv", ["jinja2"])


def test_only_the_closure_is_there(python, tmp_path):
    script = tmp_path / "there.py"
    script.write_text(
        "import importlib.metadata as m, jinja2, markupsafe\n"
        "print(*sorted(d.name.lower() for d in m.distributions()))\n"
        "print(jinja2.Template('{{ 1 + 1 }}').render())\n"
    )
    assert run(python, [script], tmp_path).split() == ["jinja2", "markupsafe", "2"]
    script.write_text("import numpy")
    with pytest.raises(BundleError, match=r"found that there.py fails in an environment with only .*'numpy'\); expec"):
        run(python, [script], tmp_path)


def test_settings_of_this_process_are_left_out(python, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = tmp_path / "there.py"
    script.write_text("import os, sys\nprint(os.environ.get('PYTHONPATH'), sys.flags.isolated)")
    assert run(python, [script], tmp_path).split() == ["None", "1"]


def test_versions_are_exact():
    lines = requirements(["Jinja2"]).splitlines()
    assert lines[0] == "# Python 3.11: what the script was tested with"
    assert lines[1:] == [f"{name}=={metadata.version(name)}" for name in ("jinja2", "markupsafe")]


def test_what_is_missing_is_named():
    with pytest.raises(BundleError, match="found no no-such-package, which the bundle needs; expected the packages of"):
        closure(["no_such_package"])
