"""Rendezvous of processes that are started on this machine: at a port that the process which starts them has bound.

Left to itself Fabric looks for a free port, lets go of it, and has the first process bind it anew once it has imported
everything: seconds, on a busy machine half a minute, in which anything may take the port. It also leaves the port in
the environment, where a later training in the same process finds it. (A module of its own, as the import takes long.)
"""

import contextlib
import os
from collections.abc import Iterator

from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.distributed import TCPStore

_LEFT_BEHIND = ("MASTER_ADDR", "MASTER_PORT")  # by Fabric


class LocalEnvironment(LightningEnvironment):
    """Processes of this machine that meet at a given port, also inside a script of sbatch."""

    main_address = "127.0.0.1"

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    @property
    def main_port(self) -> int:
        """The port that is bound already."""
        return self._port


class ClientDDPStrategy(DDPStrategy):
    """Data parallel, where no process hosts the store."""

    def setup_environment(self) -> None:
        """Runs in each process that was started."""
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # PyTorch: rank 0 hosts no store
        super().setup_environment()


@contextlib.contextmanager
def local_store() -> Iterator[int]:
    """Gives the port of a store that lives as long as the block, and leaves the environment as it was."""
    before = {name: os.environ.get(name) for name in _LEFT_BEHIND}
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    try:
        yield store.port
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        del store
