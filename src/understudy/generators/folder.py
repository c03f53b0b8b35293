"""The folder of a trained generator: `generator.safetensors`, `config.json`, `history.jsonl`, pictures of samples; of a
GAN also `discriminator.safetensors`, for audits and never for release (it knows the training slices)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, reading, write_json
from understudy.io.foreign import MODEL
from understudy.io.seals import are_intact, check_opened, file_hash
from understudy.slices import Described, LabelClass, SliceAxes

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, CONFIG, DISCRIMINATOR = "generator.safetensors", "config.json", "discriminator.safetensors"
UNTRACED = frozenset({"snapshot_kimg", "checkpoint_seconds", "checkpoints_kept", "tensorboard", "keep_weights_kimg"})
"""Fields of a training that say what else is written, and how often: the result does not depend on them."""


def save_model(
    folder: Path, generator: nn.Module, config: dict[str, Any], discriminator: nn.Module | None = None
) -> None:
    """Writes the weights, then `config.json` with their hashes: the folder is finished when the latter is there."""
    import safetensors.torch  # and torch, which readers of names need not wait for

    hashes = {}
    for name, network in ((WEIGHTS, generator), (DISCRIMINATOR, discriminator)):
        if network is not None:
            with atomic_path(folder / name) as temporary:
                weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
                safetensors.torch.save_file(weights, temporary)
            hashes[name] = file_hash(folder / name)
    write_json(folder / CONFIG, config | {"sha256": hashes})


def snapshot_folder(folder: str | Path, kimg: float) -> Path:
    """Where a training keeps its weights after so many thousand images; a folder like that of a finished one."""
    return Path(folder) / "snapshots" / f"{kimg:g}kimg"


def is_finished(folder: Path, identity: str) -> bool:
    """Whether `folder` holds the finished training of this identity; an UnderstudyError if it holds another one.

    Weights that were changed since are those of no training: it is not finished, and begins anew.
    """
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG, dict)
    if config.get("identity") != identity:
        what = "the folder holds another training (other settings or data)"
        raise UnderstudyError(what, folder, "use another folder, or delete it")
    return are_intact(folder, config, WEIGHTS)


class _Record(Described):
    kind: str
    model: dict[str, Any]
    annotation: Literal["coded", "one_hot"]
    classes: list[LabelClass] = Field(min_length=2, max_length=256)
    axes: SliceAxes | None = None
    plugin: dict[str, str] | None = None
    sha256: dict[str, str] = Field({})


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of a trained generator; an UnderstudyError where it is no such file.

    Raises:
        Damaged: the folder is a job's, and a file in it is not as the job left it.
    """
    check_opened(Path(folder))
    found: dict[str, Any] = read_json(Path(folder) / CONFIG, dict)
    with reading(Path(folder) / CONFIG, MODEL):
        record = _Record.model_validate(found)
    found.update(record.model_dump(mode="json", include={"channels", "classes", "spacing", "axes"}))
    return found


def classes_of(config: dict[str, Any]) -> tuple[LabelClass, ...]:
    """The classes recorded in `config.json`."""
    return tuple(LabelClass(**c) for c in config["classes"])
