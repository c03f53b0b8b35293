"""Training and sampling of plug-in generators (`plugins.py`), so that all else takes them for one of the five.

The folder of a trained plug-in is like that of any generator: `config.json`, and in place of the weights a folder
`plugin` with whatever the plug-in wrote.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.joint import Annotation, annotation_channels, encode
from understudy.generators.plugins import Plugin, plugin_called
from understudy.io.files import read_json, sha256_file, sha256_json, write_json
from understudy.runtime.devices import resolve_device
from understudy.slices import LabelClass, SliceSet

FOLDER = "plugin"
BLOCK = 64  # slices that a plug-in is asked for at once: no slice depends on how many are wanted
_FARTHEST = 2.0  # joint images are in [-1, 1]; what overshoots a little is cut off by `decode`


class TrainingSlices:
    """Joint images of the training patients, read from disk where they are asked for.

    `slices[i]` is float32 [C + A, H, W], `slices[3:8]` and `slices[[5, 2]]` are [n, C + A, H, W], in [-1, 1]:
    C image channels, then the annotation (A = 1: evenly spaced codes; one-hot: a channel for each class).
    `numpy.asarray(slices)` is all of them.

    Attributes:
        shape: (N, C + A, H, W).
        channels: names of the image channels.
        classes: of the annotation, background first; `classes[k].code` is its grey value of 255.
        subjects: [N], whose slice each is.
        spacing: (row, column, slice) distance in mm, None where unknown.
    """

    def __init__(self, slices: SliceSet, rows: NDArray[np.int64], annotation: Annotation = "coded") -> None:
        self._slices, self._rows, self._annotation = slices, rows, annotation
        depth = len(slices.channels) + annotation_channels(slices.classes, annotation)
        self.shape = (len(rows), depth, slices.resolution, slices.resolution)
        self.channels: tuple[str, ...] = slices.channels
        self.classes: tuple[LabelClass, ...] = slices.classes
        self.spacing = slices.spacing
        subjects = slices.index["subject"] if "subject" in slices.index else slices.index["id"]
        self.subjects: NDArray[np.str_] = subjects.to_numpy()[rows].astype(str)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> NDArray[np.float32]:
        chosen = self._rows[which]
        images, labels = self._slices.read(np.atleast_1d(chosen))
        joint = encode(images, labels, self.classes, self._annotation).numpy()
        return joint[0] if np.ndim(chosen) == 0 else joint

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)


def train_plugin(
    slices: SliceSet,
    rows: NDArray[np.int64],
    name: str,
    fields: dict[str, Any],
    folder: str | Path,
    annotation: Annotation = "coded",
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Has a plug-in learn from the rows; a finished folder is left alone, an interrupted one is given to it again.

    Args:
        fields: its configuration.
        folder: for `config.json` and the plug-in's own files.

    Raises:
        UnderstudyError: no such plug-in, no rows, another training in the folder, or what went wrong in the plug-in.
        Interrupted: SIGTERM or SIGINT.
    """
    plugin, folder = plugin_called(name), Path(folder)
    config = plugin.configured(fields)
    if not len(rows):
        raise UnderstudyError("no slices to train on", where=slices.path, fix="check the split")
    what = {"plugin": plugin.identity, "config": config.model_dump(mode="json"), "annotation": annotation,
            "seed": seed, "slices": slices.content_hash, "rows": np.asarray(rows).tolist()}  # fmt: skip
    identity = sha256_json(what)
    if (folder / "config.json").is_file():
        if read_json(folder / "config.json").get("identity") != identity:
            raise UnderstudyError(
                "the folder holds another training (other settings or data)",
                where=folder,
                fix="use another folder, or delete this one",
            )
        return folder
    own, start = folder / FOLDER, time.monotonic()
    own.mkdir(parents=True, exist_ok=True)
    shown = TrainingSlices(slices, np.asarray(rows, np.int64), annotation)
    with blamed(plugin, "train"):
        plugin.made_by.train(slices=shown, config=config, folder=own, seed=seed, device=str(resolve_device(device)))
    record = {
        "kind": plugin.name, "plugin": plugin.identity, "config": what["config"], "content": _content(own, plugin),
        "model": {"resolution": slices.resolution, "channels": shown.shape[1]}, "identity": identity, "seed": seed,
        "seconds": round(time.monotonic() - start, 2), "channels": list(slices.channels),
        "classes": [vars(c) for c in slices.classes], "annotation": annotation, "spacing": slices.spacing,
        "axes": slices.axes, "slices": slices.content_hash, "slice_count": len(rows), "torch": torch.__version__,
    }  # fmt: skip
    write_json(folder / "config.json", record)
    return folder


class PluginGenerator:
    """A trained plug-in with the face of a network: `sample` and `to`."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._own, self._config, self._made = folder / FOLDER, config, None
        self._plugin = plugin_called(config["plugin"]["name"])
        if self._plugin.identity != config["plugin"]:
            raise UnderstudyError(
                f"trained by version {config['plugin']['version']} of the plug-in {self._plugin.name}, but"
                f" {self._plugin.version} is installed",
                where=folder,
                fix="install that version, or train it again",
            )
        if _content(self._own, self._plugin) != config["content"]:
            raise UnderstudyError(
                f"the files of the plug-in {self._plugin.name} are not those that its training wrote",
                where=self._own,
                fix="train it again, or restore the folder from a copy",
            )
        self._device = "cpu"

    def to(self, device: torch.device) -> PluginGenerator:
        """Where it is to compute, as far as the plug-in can."""
        self._device, self._made = str(device), None
        return self

    def sample(self, count: int, seed: int, start: int = 0, psi: float = 1.0) -> Tensor:
        """Samples start ... start + count - 1 of a seed, float32 [count, C + A, R, R].

        The plug-in is always asked for whole blocks, each with a seed of its own, so that sample i of a seed is the
        same whatever is asked for, if the plug-in gives the same for the same (count, seed).

        Raises:
            UnderstudyError: a truncation, or what went wrong in the plug-in.
        """
        if psi != 1:
            raise UnderstudyError(f"the plug-in {self._plugin.name} knows no truncation", fix="leave psi at 1")
        if self._made is None:
            with blamed(self._plugin, "read its folder"):
                self._made = self._plugin.made_by(folder=self._own, device=self._device)
        blocks = range(start // BLOCK, math.ceil((start + count) / BLOCK))
        found = torch.cat([self._block(seed, block) for block in blocks])
        offset = start % BLOCK
        return found[offset : offset + count]

    def _block(self, seed: int, block: int) -> Tensor:
        own_seed = int(np.random.SeedSequence([seed, block]).generate_state(1)[0]) >> 1
        with blamed(self._plugin, "sample"):
            made = self._made.sample(count=BLOCK, seed=own_seed)  # type: ignore[attr-defined]
            joint = torch.as_tensor(made).detach().float().cpu()
        self._check(joint)
        return joint

    def _check(self, joint: Tensor) -> None:
        """Refuses what cannot be joint images in [-1, 1]."""
        model = self._config["model"]
        wanted = (BLOCK, model["channels"], model["resolution"], model["resolution"])
        if tuple(joint.shape) != wanted:
            problem = f"gave an array of shape {tuple(joint.shape)}, not {wanted}"
        elif not bool(joint.isfinite().all()):
            problem = "gave values that are no numbers (NaN or infinite)"
        elif float(joint.abs().max()) > _FARTHEST or float(joint.min()) >= 0:
            problem = f"gave values from {float(joint.min()):.3g} to {float(joint.max()):.3g}, not from -1 to 1"
        else:
            return
        raise UnderstudyError(
            f"the plug-in {self._plugin.name} {problem}",
            where=f"its `sample`, from {self._own}",
            fix="it must give joint images [count, channels and annotation, rows, columns] in [-1, 1]",
        )


@contextlib.contextmanager
def blamed(plugin: Plugin, what: str) -> Iterator[None]:
    """Names the plug-in where its code fails; out of memory and a full disk stay what they are, with a note."""
    try:
        yield
    except (UnderstudyError, Interrupted, MemoryError, torch.OutOfMemoryError, OSError) as error:
        error.add_note(f"in the plug-in generator {plugin.name} {plugin.version} ({what})")
        raise
    except Exception as error:  # whatever foreign code may raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UnderstudyError(
            f"the plug-in {plugin.name} {plugin.version} failed to {what}: {type(error).__name__}: {error}",
            where=f"{last.filename}, line {last.lineno}, in {last.name}",
            fix="repair the plug-in, and raise its version if it then gives other slices",
        ) from error


def _content(folder: Path, plugin: Plugin) -> str:
    """SHA-256 (hex) of the names and contents of a plug-in's files.

    Raises:
        UnderstudyError: there is no file.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UnderstudyError(
            f"the plug-in {plugin.name} has written nothing", where=folder, fix="its `train` must write to `folder`"
        )
    return sha256_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])
