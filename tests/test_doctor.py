"""The doctor: a healthy environment is found healthy by really using it; each fault is named with its remedy."""

import sys
from collections import namedtuple
from pathlib import Path

import pytest

from dl_pipelines import doctor

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def no_database_url(monkeypatch):
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)


@pytest.mark.slow
def test_this_environment_is_whole(tmp_path, no_database_url):
    checks = {check.name: check for check in doctor.run_checks(tmp_path / "home")}
    assert [name for name, check in checks.items() if not check.ok] == []
    assert list(checks) == ["interpreter", "compiler", "disk", "database", "torch", "horovod", "triton"]
    assert "2 processes summed a tensor" in checks["horovod"].found
    assert checks["triton"].found == "tritonserver 2.51.0 answered on 127.0.0.1"
    assert all(check.remedy == "" for check in checks.values())


def test_quick_starts_no_other_process(tmp_path, no_database_url, monkeypatch):
    monkeypatch.setattr(doctor.subprocess, "Popen", None)
    names = [check.name for check in doctor.run_checks(tmp_path, quick=True)]
    assert names == ["interpreter", "compiler", "disk", "database"]


def test_another_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    check = doctor.check_interpreter()
    assert (check.ok, check.remedy) == (False, "PYTHON=python3.11 make setup")


def test_no_compiler_matters_until_horovod_is_built(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert doctor.check_compiler().found == "no c++, no make; Horovod is built already"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    check = doctor.check_compiler()
    assert not check.ok
    assert check.found == "no c++, no make"
    assert check.remedy.startswith("apt-get install g++ make")


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage(10 * 2**30, 9 * 2**30, 2**30))
    check = doctor.check_disk(tmp_path / "not" / "there" / "yet")
    assert not check.ok
    assert check.found == f"1.0 GiB free at {tmp_path}"
    assert check.remedy == "free 2 GiB there (dlp gc), or DLP_HOME on another disk"


def test_a_database_that_does_not_answer_keeps_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("DLP_DATABASE_URL", f"postgresql://user:hunter2@127.0.0.1:{doctor._free_port()}/ledger")
    check = doctor.check_database(tmp_path)
    assert not check.ok
    assert "hunter2" not in repr(check)
    assert "Connection refused" in check.found
    assert "DLP_DATABASE_URL" in check.remedy


def test_a_broken_torch_is_a_line_not_a_crash(monkeypatch):
    monkeypatch.setattr(doctor, "_TORCH", "raise RuntimeError('operator torchvision::nms does not exist')")
    check = doctor.check_torch()
    assert (check.ok, check.remedy) == (False, "make clean setup")
    assert check.found == "RuntimeError: operator torchvision::nms does not exist"


def test_horovod_is_missing_or_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    check = doctor.check_horovod()
    assert (check.ok, check.found, check.remedy) == (False, f"no {tmp_path}/horovodrun", "make clean setup")
    launcher = tmp_path / "horovodrun"
    launcher.write_text("#!/bin/sh\necho '[0]<stdout>:SUM 1.0 of 1 with horovod 0.0.0'\n")
    launcher.chmod(0o755)
    check = doctor.check_horovod()
    assert not check.ok
    assert check.found == "[0]<stdout>:SUM 1.0 of 1 with horovod 0.0.0"


def fake_triton(root: Path, body: str) -> None:
    binary = root / ".venv-triton/lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver"
    stub = root / ".venv-triton/tritonserver/backends/python/triton_python_backend_stub"
    for path in (binary, stub):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)


def test_triton_is_missing_or_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path)
    check = doctor.check_triton()
    assert not check.ok
    assert check.found.startswith(f"no {tmp_path}/.venv-triton/lib")
    fake_triton(tmp_path, "echo 'libfoo.so: cannot open shared object file'; exit 127")
    check = doctor.check_triton()
    assert (check.ok, check.remedy) == (False, "make clean setup")
    assert check.found == "libfoo.so: cannot open shared object file"


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path):
    marker = tmp_path / "late"
    code, output = doctor._run(["sh", "-c", f"echo begun; (sleep 1; touch {marker}) & sleep 30"], 0.3)
    assert code == 124
    assert output.splitlines() == ["begun", "", "no end within 0.3 s"]
    doctor.time.sleep(1)
    assert not marker.exists()
