"""Generators that other packages bring as entry points of the group `understudy.generators`.

`docs/your-own-generator.md` says what the class of a plug-in must and may have, with an example of 30 lines. The folder
of a trained plug-in is like that of any generator, with a folder `plugin` of its own files in place of the weights.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.folder import CONFIG, is_finished, snapshot_folder
from understudy.generators.interface import GeneratorType, Scorer
from understudy.generators.joint import Annotation, annotation_channels, encode
from understudy.io.files import sha256_file, sha256_json, write_json
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet

FOLDER = "plugin"
BLOCK = 64  # slices that a plug-in is asked for at once: no slice depends on how many are wanted
NoSettings = create_model("NoSettings", __config__=ConfigDict(extra="forbid"))  # of a plug-in without `Config`
FARTHEST = 2.0  # joint images are in [-1, 1]; what overshoots a little is cut off by `decode`


class TrainingSlices:
    """Joint images of the training patients, read where they are asked for: C image channels, then the annotation.

    `slices[i]` is float32 [C + A, H, W], `slices[3:8]` and `slices[[5, 2]]` are [n, C + A, H, W], in [-1, 1];
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
        self.channels, self.classes, self.spacing = slices.channels, slices.classes, slices.spacing
        subjects = slices.index["subject"] if "subject" in slices.index else slices.index["id"]
        self.subjects: NDArray[np.str_] = subjects.to_numpy()[rows].astype(str)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> NDArray[np.float32]:
        chosen = self._rows[which]
        images, labels = self._slices.read(np.atleast_1d(chosen))
        joint = encode(images, labels, self.classes, self._annotation).numpy()
        return joint[0] if np.ndim(chosen) == 0 else joint

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)


class PluginType(GeneratorType):
    """A plug-in that was imported: the class `implementation`, under the name of its entry point."""

    def __init__(self, name: str, implementation: Any, distribution: str, version: str) -> None:
        self.name, self.implementation, self.version = name, implementation, version
        # the id of a job depends on it: not a changed comment, but a new version
        self.identity = {"name": name, "distribution": distribution, "version": version}
        self.settings: type[BaseModel] = getattr(implementation, "Config", NoSettings)
        self.recipes = getattr(implementation, "recipes", {})
        self.tells_cost = callable(getattr(implementation, "cost", None))

    def configured(self, fields: Mapping[str, Any]) -> BaseModel:
        """Its validated settings; of a ValidationError `settings_problem` makes words."""
        return self.settings.model_validate(dict(fields))

    def settings_problem(self, error: ValidationError) -> tuple[tuple[str, ...], str]:
        """The first thing that is wrong in its settings: path of the field below `config`, and words."""
        first, *others = error.errors()
        what = f"{first['msg'].removeprefix('Value error, ')} (a setting of the plug-in {self.name})"
        if first["type"] == "extra_forbidden":
            known = ", ".join(self.settings.model_fields) or "none"
            what = f"is no setting of the plug-in {self.name} (its settings: {known})"
        return tuple(map(str, first["loc"])), what + (f"; and {len(others)} more" if others else "")

    @property
    def takes_snapshots(self) -> bool:
        """Whether its training can keep states on its way."""
        return "snapshots" in inspect.signature(self.implementation.train).parameters

    def cost(self, fields: Mapping[str, Any], shape: tuple[int, int, int], slices: int) -> dict[str, float] | None:
        """Operations of its "training" on so many slices (C + A, H, W) and of a "sample", and its "weights", as it says
        itself; None if it does not."""
        if not self.tells_cost:
            return None
        with plugin_errors(self, "tell its cost"):
            found = self.implementation.cost(self.configured(fields), shape, slices)
            return {name: float(found[name]) for name in ("training", "sample", "weights")}

    def train(
        self, slices: SliceSet, rows: NDArray[np.int64], fields: Mapping[str, Any], folder: str | Path,
        annotation: Annotation = "coded", seed: int = 0, device: str = "auto", keep_weights_kimg: Sequence[float] = (),
    ) -> Path:  # fmt: skip
        """Has the plug-in learn from the rows; the same call continues an interrupted training, if the plug-in can.

        Args:
            fields: its settings.
            folder: for `config.json` and the plug-in's own files.
            keep_weights_kimg: thousand images after which its state is kept as well, see `snapshot_folder`.

        Raises:
            UnderstudyError: no rows, another training in the folder, or what went wrong in the plug-in.
            Interrupted: SIGTERM or SIGINT.
        """
        config, folder, rows = self.configured(fields), Path(folder), np.asarray(rows, np.int64)
        if not len(rows):
            raise UnderstudyError("no slices to train on", where=slices.path, fix="check the split")
        settings = config.model_dump(mode="json")
        identity = sha256_json(
            {"plugin": self.identity, "config": settings, "annotation": annotation, "seed": seed,
             "slices": slices.content_hash, "rows": rows.tolist()}
        )  # fmt: skip
        snapshots = {kimg: snapshot_folder(folder, kimg) for kimg in keep_weights_kimg}
        if is_finished(folder, identity) and all((path / CONFIG).is_file() for path in snapshots.values()):
            return folder
        shown, start = TrainingSlices(slices, rows, annotation), time.monotonic()
        for path in (folder, *snapshots.values()):
            (path / FOLDER).mkdir(parents=True, exist_ok=True)
        options = {"snapshots": {kimg: path / FOLDER for kimg, path in snapshots.items()}} if snapshots else {}
        with plugin_errors(self, "train"):
            self.implementation.train(
                slices=shown, config=config, folder=folder / FOLDER, seed=seed, device=str(resolve_device(device)),
                **options,
            )  # fmt: skip
        record = {
            "kind": self.name, "plugin": self.identity, "config": settings,
            "model": {"resolution": slices.resolution, "channels": shown.shape[1]}, "identity": identity, "seed": seed,
            "seconds": round(time.monotonic() - start, 2), "channels": list(slices.channels),
            "classes": [vars(c) for c in slices.classes], "annotation": annotation, "spacing": slices.spacing,
            "axes": slices.axes, "slices": slices.content_hash, "slice_count": len(rows), "torch": torch.__version__,
        }  # fmt: skip
        for path in (*snapshots.values(), folder):  # the finished generator last
            write_json(path / CONFIG, record | {"content": self._content(path / FOLDER)})
        return folder

    def load(self, folder: Path, config: dict[str, Any]) -> PluginGenerator:
        """The trained plug-in, if version and files are those of its training."""
        if self.identity != config["plugin"]:
            trained = f"trained by version {config['plugin']['version']} of the plug-in {self.name}"
            what = f"{trained}, but {self.version} is installed"
            raise UnderstudyError(what, where=folder, fix="install that version, or train it again")
        if self._content(folder / FOLDER) != config["content"]:
            what = f"the files of the plug-in {self.name} are not those that its training wrote"
            raise UnderstudyError(what, folder / FOLDER, "train it again, or restore the folder from a copy")
        return PluginGenerator(self, folder / FOLDER, config["model"])

    def weights(self, folder: Path, config: dict[str, Any]) -> dict[str, str]:
        """One hash of all its files."""
        return {FOLDER: config["content"]}

    def _content(self, folder: Path) -> str:
        # SHA-256 (hex) of the names and contents of its files
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            what = f"the plug-in {self.name} has written nothing"
            raise UnderstudyError(what, where=folder, fix="its `train` must write to `folder`")
        return sha256_json([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])

    def supports_membership_inference(self, folder: Path) -> bool:
        """Whether its class has the optional method."""
        return callable(getattr(self.implementation, "membership_scores", None))

    def membership_scorer(self, folder: Path, config: dict[str, Any], device: torch.device) -> tuple[Scorer, str]:
        """What its `membership_scores` says."""
        if not self.supports_membership_inference(folder):
            what = f"the plug-in {self.name} cannot score slices"
            raise UnderstudyError(what, folder, "give its class a method `membership_scores`")
        generator = self.load(folder, config).to(device)

        def score(images: Tensor) -> Tensor:
            with plugin_errors(self, "score slices"):
                scores = torch.as_tensor(generator.instance.membership_scores(images.cpu().numpy()))
                return scores.detach().reshape(len(images))

        return score, "plug-in's score"


class PluginGenerator:
    """A trained plug-in with the methods of a network that others use: `sample` and `to`."""

    def __init__(self, plugin: PluginType, folder: Path, model: Mapping[str, int], device: str = "cpu") -> None:
        self._plugin, self._folder, self._model, self._device = plugin, folder, model, device

    def to(self, device: torch.device) -> PluginGenerator:
        """The same where it is to compute, as far as the plug-in can."""
        return PluginGenerator(self._plugin, self._folder, self._model, str(device))

    @functools.cached_property
    def instance(self) -> Any:
        """The plug-in's own object."""
        with plugin_errors(self._plugin, "read its folder"):
            return self._plugin.implementation(folder=self._folder, device=self._device)

    def sample(self, count: int, seed: int, start: int = 0, psi: float = 1.0) -> Tensor:
        """Samples start ... start + count - 1 of a seed, float32 [count, C + A, R, R].

        The plug-in is always asked for whole blocks, each with a seed of its own: sample i of a seed is the same
        whatever is asked for, if the plug-in gives the same for the same (count, seed).
        """
        if psi != 1:
            raise UnderstudyError(f"the plug-in {self._plugin.name} knows no truncation", fix="leave psi at 1")
        blocks = range(start // BLOCK, math.ceil((start + count) / BLOCK))
        images = torch.cat([self._block(seed, block) for block in blocks])
        return images[start % BLOCK : start % BLOCK + count]

    def _block(self, seed: int, block: int) -> Tensor:
        instance, own_seed = self.instance, int(np.random.SeedSequence([seed, block]).generate_state(1)[0]) >> 1
        with plugin_errors(self._plugin, "sample"):
            joint = torch.as_tensor(instance.sample(count=BLOCK, seed=own_seed)).detach().float().cpu()
        shape = (BLOCK, self._model["channels"], self._model["resolution"], self._model["resolution"])
        if tuple(joint.shape) != shape:
            problem = f"an array of shape {tuple(joint.shape)}, not {shape}"
        elif not bool(joint.isfinite().all()):
            problem = "values that are NaN or infinite"
        elif float(joint.abs().max()) > FARTHEST or float(joint.min()) >= 0:
            problem = f"values from {float(joint.min()):.3g} to {float(joint.max()):.3g}, not from -1 to 1"
        else:
            return joint
        fix = "it must give joint images [count, channels and annotation, rows, columns] in [-1, 1]"
        raise UnderstudyError(f"the plug-in {self._plugin.name} gave {problem}", f"`sample` of {self._folder}", fix)


def imported_plugin(point: EntryPoint) -> PluginType:
    """The class that an entry point names, after a look at its form."""
    try:
        implementation = point.load()
    except Exception as error:  # whatever the import of foreign code may raise
        what = f"the plug-in {point.name} cannot be imported ({type(error).__name__}: {error})"
        where = f"{point.value}, entry point of the group {point.group}"
        raise UnderstudyError(what, where, "repair it, or install its package again") from error
    missing = [word for word in ("train", "sample") if not callable(getattr(implementation, word, None))]
    settings = getattr(implementation, "Config", NoSettings)
    if not isinstance(settings, type) or not issubclass(settings, BaseModel):
        missing.append("Config (a pydantic model)")
    if not isinstance(implementation, type) or missing:
        lacks = f"has no {' and no '.join(missing)}" if missing else "is no class"
        fix = "see docs/your-own-generator.md for what it must have"
        raise UnderstudyError(f"the plug-in {point.name} {lacks}", point.value, fix)
    version = getattr(implementation, "version", None) or (point.dist.version if point.dist else None)
    if version is None:
        what = f"the plug-in {point.name} has no version, so a change of it would go unnoticed"
        raise UnderstudyError(what, where=point.value, fix='give its class one: version = "1"')
    return PluginType(point.name, implementation, point.dist.name if point.dist else "", str(version))


@contextlib.contextmanager
def plugin_errors(plugin: PluginType, what: str) -> Iterator[None]:
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
