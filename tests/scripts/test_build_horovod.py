"""Horovod's build: patches are exact or loud, the cache knows what a wheel depends on, the launcher is local."""

import contextlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_horovod", ROOT / "scripts" / "build_horovod.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("text", ["nothing", "one old\none old\n"])
def test_a_patch_that_does_not_match_once_stops_the_build(build, tmp_path, text):
    (tmp_path / "file").write_text(text)
    patch = build.Patch("file", "old\n", "new\n", "a reason")
    count = text.count("old\n")
    with pytest.raises(build.BuildError, match=f"{count} times in horovod 0.28.1/file, expected it once .a reason"):
        build.apply(patch, tmp_path)
    assert (tmp_path / "file").read_text() == text


def test_a_patch_replaces_its_text(build, tmp_path):
    (tmp_path / "file").write_text("a\nold\nb\n")
    build.apply(build.Patch("file", "old\n", "new\n", "a reason"), tmp_path)
    assert (tmp_path / "file").read_text() == "a\nnew\nb\n"


def test_the_key_changes_with_what_a_wheel_depends_on(build, monkeypatch):
    monkeypatch.delenv("HOROVOD_GPU_OPERATIONS", raising=False)
    keys = {build.build_key("2.15.0"), build.build_key("2.15.0"), build.build_key("2.15.0+cpu")}
    assert len(keys) == 2
    monkeypatch.setenv("HOROVOD_GPU_OPERATIONS", "NCCL")
    keys.add(build.build_key("2.15.0"))
    assert build.CPU_PATCHES[0] not in build.patches()
    monkeypatch.setattr(build, "PATCHES", build.PATCHES[:-1])
    keys.add(build.build_key("2.15.0"))
    assert len(keys) == 4
    assert all(key.partition("-")[2].startswith("cp311-") for key in keys)


def test_a_missing_compiler_is_named(build, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match=r"found no c\+\+, expected .* install g\+\+"):
        build.build(tmp_path)


def test_the_launcher_listens_on_loopback_only(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text(f"import pathlib, time\npathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(60)\n")
    scripts = Path(sys.executable).parent
    launcher = subprocess.Popen(
        [scripts / "horovodrun", "-np", "2", "-H", "localhost:2", "--gloo", sys.executable, program],
        env={"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "up").exists():
            assert launcher.poll() is None, "horovodrun ended early"
            assert time.monotonic() < deadline, "no worker within a minute"
            time.sleep(0.1)
        process = psutil.Process(launcher.pid)
        family = [process, *process.children(recursive=True)]
        listening = [
            connection.laddr.ip
            for member in family
            for connection in member.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening, "the rendezvous server listens somewhere"
        assert set(listening) == {"127.0.0.1"}
    finally:
        # SIGTERM first: killed outright, the launcher leaves its semaphores in /dev/shm.
        family = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
        launcher.terminate()
        for member in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):  # its parent may have ended it
                member.kill()
        launcher.wait()
