"""The network that a training goes on from, in place of new weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_file


@dataclass(frozen=True)
class Initial:
    """A finished segmenter, as the start of another training.

    Attributes:
        folder: with `segmenter.safetensors` and `config.json`.
        channels, classes: names in the order of its input and output, which the further training keeps.
        resolution: edge of its slices, pixels.
        record: what the further training records of it.
    """

    folder: Path
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    resolution: int
    record: dict[str, Any]

    def load_into(self, network: nn.Module) -> None:
        """Gives a network its weights.

        Raises:
            UnderstudyError: the file is damaged, or of another network.
        """
        try:
            network.load_state_dict(load_file(self.folder / "segmenter.safetensors"))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise UnderstudyError(
                f"the weights to go on from cannot be used ({str(error).splitlines()[0]})",
                where=self.folder / "segmenter.safetensors",
                fix="train that segmenter again",
            ) from error


def initial_from(folder: str | Path, model: dict[str, Any]) -> Initial:
    """The segmenter in a folder.

    Args:
        model: configuration that its network must have, plain JSON values.

    Raises:
        UnderstudyError: no finished segmenter, or another network.
    """
    folder = Path(folder)
    if not ((folder / "config.json").is_file() and (folder / "segmenter.safetensors").is_file()):
        raise UnderstudyError(
            "there is no finished segmenter to go on from", where=folder, fix="train it to its end first"
        )
    found = read_json(folder / "config.json")
    if found["model"] != model:
        raise UnderstudyError(
            "the segmenter to go on from is another network", where=folder, fix="use the same `model` for both"
        )
    record = {"weights_sha256": sha256_file(folder / "segmenter.safetensors"), "outcome": found["outcome"]}
    return Initial(folder, tuple(found["channels"]), tuple(found["classes"]), found["resolution"], record)


def same_size(initial: Initial, resolution: int) -> None:
    """Raises UnderstudyError where the slices are not those of the network."""
    if initial.resolution != resolution:
        raise UnderstudyError(
            f"the segmenter to go on from sees {initial.resolution} pixels, the slices have {resolution}",
            where=initial.folder,
            fix="train both at the same resolution",
        )
