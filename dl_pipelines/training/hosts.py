"""The machines of a training, and which network leads to them, so that Horovod listens on that one and on no other."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from dl_pipelines.brief.sections import Distributed

INTERFACE = "DLP_INTERFACE"
"""Names the network interface of a training over several machines; it is called alike on all of them."""
HOSTFILE = "DLP_HOSTFILE"
"""Names a file with the machines of every training whose brief has no hosts: `name slots=N` or `name:N` a line."""


class Network(NamedTuple):
    """An interface of this machine and its IPv4 address."""

    interface: str
    address: str


def hosts_of(distributed: Distributed) -> tuple[str, ...]:
    """The brief's hosts, else those of the file that HOSTFILE names, as `name:slots`; empty: only this machine.

    Raises ValueError when the file can't be read, or has too few slots.
    """
    path = os.environ.get(HOSTFILE)
    if distributed.hosts or not path or distributed.communicator != "horovod":
        return distributed.hosts
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"found {HOSTFILE}={path}, which can't be read ({error}); expected a file of hosts") from error
    found = [":".join(word.removeprefix("slots=") for word in words) for words in lines if words]
    if not found:
        raise ValueError(f"found no hosts in {path}; expected a line for each machine: name slots=N")
    try:
        return Distributed.model_validate({**distributed.model_dump(), "hosts": found}).hosts
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"found {', '.join(found)} in {path}; expected {reason}") from error


def network_of(hosts: Sequence[str]) -> Network:
    """The interface that leads to the first of `name:slots` that is another machine; loopback when none is.

    Nothing is sent. Raises ValueError for a name that is unknown, or an interface that isn't there or has no address.
    """
    addresses = _addresses()
    if name := os.environ.get(INTERFACE):
        if name not in addresses:
            raise ValueError(
                f"found {INTERFACE}={name}; expected an interface with an IPv4 address: {', '.join(sorted(addresses))}"
            )
        return Network(name, addresses[name])
    for host in hosts:
        found = _route(host.rpartition(":")[0])
        if not found.startswith("127."):
            for interface, address in addresses.items():
                if address == found:
                    return Network(interface, address)
            raise ValueError(
                f"found that {host} is reached from {found}, which is not the last address of an interface; expected "
                f"one with a single IPv4 address; name the interface in {INTERFACE}"
            )
    return Network("lo", "127.0.0.1")


def _addresses() -> dict[str, str]:
    """The IPv4 address of each interface: of several the last, as Horovod takes it."""
    import psutil

    found = {}
    for interface, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family is socket.AF_INET:
                found[interface] = address.address
    return found


def _route(name: str) -> str:
    """Our address on the way to a host; of a host that is this machine, loopback. Raises ValueError."""
    try:
        there = socket.gethostbyname(name)
        if there in _addresses().values():
            return "127.0.0.1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
            probe.connect((there, 9))
            return probe.getsockname()[0]
    except OSError as error:
        raise ValueError(
            f"found no way to the host {name} ({error}); expected a name of distributed.hosts that this machine reaches"
        ) from error
