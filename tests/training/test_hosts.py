"""Trainings over several machines: host names of this one, and two network namespaces that a cable joins."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.store import durable
from dl_pipelines.training import hosts, launch
from tests.training import sockets
from tests.training.conftest import Supervised, wait_for
from tests.training.sockets import LISTENS, TALKS

SECRET = "hunter2secret"
TWO = {"communicator": "horovod", "workers": 2, "training": {"epochs": 2}}
CARDS = {"lo": "127.0.0.1", "eth0": "192.0.2.1", "eth1": "198.51.100.4"}
SSH = """#!/bin/sh
echo "$@" >> {log}
while [ "$1" = -o ]; do shift 2; done
host=$1
shift
while [ "$1" = -o ]; do shift 2; done
[ "$host" = 192.0.2.2 ] || exit 255
exec nsenter -t {pid} -n sh -c "$*"
"""


@pytest.fixture
def cards(monkeypatch):
    """A machine with two networks; names are resolved by a table."""
    monkeypatch.delenv(hosts.INTERFACE, raising=False)
    monkeypatch.setattr(hosts, "_addresses", lambda: CARDS)
    ours = {"near": "192.0.2.1", "far": "198.51.100.4", "localhost": "127.0.0.1", "odd": "203.0.113.1"}
    monkeypatch.setattr(hosts, "_route", ours.__getitem__)


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (["localhost:2"], ("lo", "127.0.0.1")),
        (["localhost:1", "near:1"], ("eth0", "192.0.2.1")),
        (["far:4", "near:1"], ("eth1", "198.51.100.4")),
    ],
)
def test_the_network_is_the_one_that_leads_to_the_first_other_machine(cards, names, network):
    assert hosts.network_of(names) == network


def test_the_network_can_be_named(cards, monkeypatch):
    monkeypatch.setenv(hosts.INTERFACE, "eth1")
    assert hosts.network_of(["near:1"]) == ("eth1", "198.51.100.4")
    monkeypatch.setenv(hosts.INTERFACE, "ib0")
    message = "found DLP_INTERFACE=ib0; expected an interface with an IPv4 address: eth0, eth1, lo"
    with pytest.raises(ValueError, match=message):
        hosts.network_of(["near:1"])


def test_an_interface_with_several_addresses_has_to_be_named(cards):
    with pytest.raises(ValueError, match=r"found that odd:1 is reached from 203\.0\.113\.1, .* in DLP_INTERFACE"):
        hosts.network_of(["odd:1"])


def test_a_host_that_nobody_knows_is_told(monkeypatch):
    monkeypatch.delenv(hosts.INTERFACE, raising=False)

    def unknown(name):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(hosts.socket, "gethostbyname", unknown)
    message = r"found no way to the host gpu-7 \(.*not known\); expected a name of distributed.hosts that this machine"
    with pytest.raises(ValueError, match=message):
        hosts.network_of(["gpu-7:1"])


def test_this_machine_by_any_of_its_addresses_is_loopback(monkeypatch):
    monkeypatch.delenv(hosts.INTERFACE, raising=False)
    assert hosts.network_of(["127.0.0.1:1", "localhost:1"]) == ("lo", "127.0.0.1")


def test_horovod_listens_where_the_hosts_are_and_else_on_loopback(cards, tmp_path):
    far = Distributed(hosts=("far:2", "near:2"), workers=4)
    assert launch.network_environment(far) == {"DLP_HOROVOD_BIND": "198.51.100.4"}
    command = launch.worker_command(tmp_path / "job.json", far, tmp_path)
    assert command[command.index("-H") + 1] == "far:2,near:2"
    assert command[command.index("--network-interfaces") + 1] == "eth1"
    assert launch.network_environment(Distributed()) == {"DLP_HOROVOD_BIND": "127.0.0.1"}
    assert launch.network_environment(Distributed(communicator="torch")) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hosts": ["gpu-1"]}, "name:slots of each machine, such as 10.0.0.7:2 or gpu-1:8, not 'gpu-1'"),
        ({"hosts": ["gpu-1:0"]}, "not 'gpu-1:0'"),
        ({"hosts": ["$(reboot):2"]}, r"not '\$\(reboot\):2'"),
        ({"hosts": ["a:1", "A:1"]}, "each machine once, not a again; give it more slots"),
        ({"hosts": ["a:1", "b:2"], "workers": 4}, r"hosts with at least as many slots \(3\) as workers \(4\)"),
        ({"hosts": ["a:2"], "communicator": "torch"}, "communicator: horovod with hosts; the others train on one"),
    ],
)
def test_hosts_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Distributed.model_validate(given)


def test_hosts_may_come_from_a_file(cards, monkeypatch, tmp_path):
    path = tmp_path / "hostfile"
    monkeypatch.setenv(hosts.HOSTFILE, str(path))
    with pytest.raises(ValueError, match=rf"found DLP_HOSTFILE={path}, which can't be read"):
        hosts.hosts_of(Distributed())
    path.write_text("near slots=1\n\nfar:2\n")
    assert hosts.hosts_of(Distributed(workers=3)) == ("near:1", "far:2")
    assert hosts.hosts_of(Distributed(hosts=("localhost:2",))) == ("localhost:2",)
    assert hosts.hosts_of(Distributed(communicator="torch")) == ()
    assert launch.network_environment(Distributed()) == {"DLP_HOROVOD_BIND": "192.0.2.1"}
    with pytest.raises(ValueError, match=r"found near:1, far:2 in .*; expected hosts with at least as many"):
        hosts.hosts_of(Distributed(workers=4))
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"found no hosts in .*; expected a line for each machine: name slots=N"):
        hosts.hosts_of(Distributed())


@pytest.mark.slow
def test_two_names_of_one_machine_train_outside_the_sandbox_on_loopback(make_job, start):
    job = make_job(hosts=("localhost:1", "127.0.0.1:1"), **TWO)
    running = start(job)
    assert running.end() == {"attempts": ["done"], "failure": None, "faults": [], "sandboxed": False}
    assert durable.read_json(job.folder / "result.json")["workers"] == 2
    assert running.left() == []


@pytest.fixture
def machines(tmp_path):
    """(prefixes of commands that run on each machine, both process ids, what `ssh` was told); a cable joins them.

    They are network namespaces with a card eth0 each, 192.0.2.1 and 192.0.2.2.
    """
    if not (launch.sandbox_prefix() and shutil.which("nsenter")):
        pytest.skip("this system allows no user namespaces")
    wait = ["sh", "-c", "ip link set lo up && echo ready && exec cat"]
    with contextlib.ExitStack() as stack:

        def machine(*prefix):
            process = subprocess.Popen([*prefix, *wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(process)  # ends with its standard input
            assert process.stdout and process.stdout.readline() == b"ready\n"
            return process.pid

        def on(pid):
            return ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials", "--"]

        first = machine("unshare", "-Urn", "--")
        second = machine(*on(first), "unshare", "-n", "--")
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second)]
        made = subprocess.run([*on(first), *cable], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"this system allows no virtual cable: {made.stderr.strip()}")
        for pid, address in ((first, "192.0.2.1/24"), (second, "192.0.2.2/24")):
            subprocess.run([*on(pid), "ip", "address", "add", address, "dev", "eth0"], check=True)
            subprocess.run([*on(pid), "ip", "link", "set", "eth0", "up"], check=True)
        log = tmp_path / "ssh.log"
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(SSH.format(log=log, pid=second))
        ssh.chmod(0o755)
        yield (on(first), on(second)), (first, second), log


@contextlib.contextmanager
def watched(prefixes):
    """A list for each machine, which has the (state, address) of all of its sockets when the block has ended."""
    command = [sys.executable, "-I", "-S", sockets.__file__]
    looking = [
        subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for prefix in prefixes
    ]
    seen = [[] for _ in looking]
    try:
        yield seen
    finally:
        for found, process in zip(seen, looking, strict=True):
            found += [tuple(item) for item in json.loads(process.communicate(timeout=30)[0])]


@pytest.mark.slow
def test_two_machines_train_together_and_listen_on_their_own_network(make_job, machines):
    prefixes, pids, log = machines
    job = make_job(hosts=("192.0.2.1:1", "192.0.2.2:1"), **TWO)
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", str(job.folder / "job.json")]
    environment = {
        **os.environ, "PATH": f"{log.parent / 'bin'}:{os.environ['PATH']}", "DLP_DATABASE_URL": f"postgresql://{SECRET}",
    }  # fmt: skip
    running = Supervised(job, subprocess.Popen([*prefixes[0], *command], env=environment, text=True))
    try:
        with watched(prefixes) as seen:
            wait_for(lambda: bool(running.look()) and len(running.told("train_loss").splitlines()) >= 1)
            networks = {rank: Path(f"/proc/{running.rank(rank).pid}/ns/net").readlink() for rank in (0, 1)}
            assert running.end() == {"attempts": ["done"], "failure": None, "faults": [], "sandboxed": False}
    finally:
        running.process.kill()
    listens, talks = ([{at for is_, at in one if is_ == state} for one in seen] for state in (LISTENS, TALKS))
    assert networks == {rank: Path(f"/proc/{pid}/ns/net").readlink() for rank, pid in enumerate(pids)}
    assert listens[0] == {"192.0.2.1"}, "the rendezvous, and gloo of rank 0"
    assert listens[1] <= {"192.0.2.2"}, "gloo of rank 1 listens for a moment, perhaps too short to be seen"
    assert "192.0.2.2" in talks[1]
    told = log.read_text()
    assert "HOROVOD_RANK=1" in told and "HOROVOD_RANK=0" not in told
    assert SECRET not in told and "SECRET_KEY" not in told
    assert json.loads((job.folder / "result.json").read_text())["workers"] == 2
    assert running.left() == []
