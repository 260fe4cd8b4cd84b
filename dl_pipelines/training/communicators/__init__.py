"""How workers talk: one file a library, one contract. Which one ran is recorded; there is no silent fallback."""

from __future__ import annotations

from dl_pipelines.training.communicators.base import Communicator, CommunicatorError


def connect(name: str) -> Communicator:
    """The communicator of this worker. Raises CommunicatorError saying what is missing and how to mend it."""
    if name == "horovod":
        from dl_pipelines.training.communicators.horovod import HorovodCommunicator

        return HorovodCommunicator()
    if name == "torch":
        from dl_pipelines.training.communicators.torch_distributed import TorchCommunicator

        return TorchCommunicator()
    if name == "single":
        from dl_pipelines.training.communicators.single import SingleCommunicator

        return SingleCommunicator()
    raise CommunicatorError(f"found the communicator {name!r}; expected horovod, torch or single")


__all__ = ["Communicator", "CommunicatorError", "connect"]
