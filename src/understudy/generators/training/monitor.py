"""What is kept and watched while a generator trains: history, health, checkpoints, pictures of samples, TensorBoard.

tensorboard --logdir understudy-mystudy/jobs
"""

import importlib.util
import logging
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.generators.folder import save_model, snapshot_folder
from understudy.generators.joint import decode
from understudy.generators.training.health import PART, Reference, check_divergence, faults, sample_stats, summary
from understudy.generators.training.state import TrainingState
from understudy.generators.training.until import Until
from understudy.io.files import atomic_path
from understudy.names import FAULTS
from understudy.runtime.checkpoints import Checkpoints, History
from understudy.slices import SliceSet

log = logging.getLogger(__name__)

PREVIEW = 64  # samples that the stats of a line are taken from: but no more than images were shown, or a trial of ...
PICTURED = 12  # ... two steps at 256 x 256 would mostly draw these; and so many are in a picture


class Watcher(Protocol):
    """Is told what happens in a training, for instance to log it elsewhere; what it raises ends the training."""

    def step(self, images: int, stats: Mapping[str, Any]) -> None:
        """A line of history.jsonl after so many real images: losses, rate, statistics of samples."""

    def snapshot(self, images: int, picture: NDArray[np.uint8]) -> None:
        """A picture of samples, RGB [H, W, 3]."""

    def end(self) -> None:
        """The training is finished, or was stopped, or failed."""


class Monitor:
    """The records of one training in its folder; only the process of rank 0 writes, and tells the watchers."""

    def __init__(
        self, state: TrainingState, slices: SliceSet, rows: NDArray[np.int64], folder: Path, identity: str,
        watchers: Sequence[Watcher] = (), until: Until | None = None,
    ) -> None:  # fmt: skip
        self.state, self.slices, self.rows, self.folder, self.identity = state, slices, rows, folder, identity
        self.until = until
        self.config, self.writes = state.config, state.processes.rank == 0
        self.checkpoints = Checkpoints(folder, identity, self.config.checkpoints_kept)
        found = self.checkpoints.latest()
        if found:
            state.load_state_dict(*found)
            if until is not None:
                until.load_state_dict(found[1]["until"])
        state.accumulation.record(state.local_batch)
        state.processes.barrier()  # before rank 0 writes anything anew
        self.history = History(folder)
        if self.writes:
            self.history.resume(self.checkpoints.history)
        self.lines = History.read(self.history.path)
        self.real = Reference.of(slices, rows, self.config.annotation)
        tensorboard = TensorBoardLogger(folder, self.config.tensorboard and self.writes, state.images)
        self.watchers: list[Watcher] = [tensorboard, *watchers] if self.writes else []
        self._warned: list[str] = []  # faults last warned of
        self._last_line = state.seconds, state.images

    @property
    def kimg(self) -> float:
        """Thousand real images shown so far."""
        return self.state.images / 1000

    def save(self) -> None:
        """Writes a checkpoint."""
        if self.writes:
            looks = {"until": self.until.state_dict()} if self.until else {}
            self.checkpoints.save(self.state.state_dict() | looks, self.state.steps, self.history.text)

    def after_step(self, before: int) -> dict[str, Any]:
        """Keeps, looks at, pictures and notes what is due after a step that began at `before` images; gives noted
        losses."""
        state, config = self.state, self.config
        for kimg in config.keep_weights_kimg:
            if self.writes and before < kimg * 1000 <= state.images:
                self.keep(snapshot_folder(self.folder, kimg))

        def due(every_kimg: float) -> bool:
            every = max(1, round(every_kimg * 1000))
            return state.images // every > before // every

        looked = self.until is not None and self.until.after_step(before)  # may finish the training
        pictured, line = state.finished or due(config.snapshot_kimg), dict[str, Any]()
        samples: Tensor | None = None
        if pictured or looked or due(config.tick_kimg):
            if self.writes and (pictured or state.quick_preview):
                samples = state.preview(min(PREVIEW, max(PICTURED, state.images)))
            line = self.add_line(samples)
        if pictured and samples is not None:  # samples-<kimg>.png: the same latents each time
            images, labels, _ = decode(samples[:PICTURED], self.slices.classes, config.annotation)
            picture = sample_grid(images, labels, len(self.slices.classes))
            save_picture(self.folder / f"samples-{self.kimg:08.1f}.png", picture)
            for watcher in self.watchers:
                watcher.snapshot(state.images, picture)
        return {name: value for name, value in line.items() if name.startswith("loss")}

    def add_line(self, samples: Tensor | None) -> dict[str, Any]:
        """Adds a line to the history, with stats of samples; raises `Diverged` if a loss is NaN."""
        state, (seconds, images) = self.state, self._last_line
        self._last_line = state.seconds, state.images
        rate = (state.images - images) / max(1e-9, state.seconds - seconds)
        stats: dict[str, Any] = dict(state.take_stats())
        check_divergence(stats, self.kimg, self.folder)
        if samples is not None:
            stats |= sample_stats(samples, self.slices.classes, self.config.annotation, self.real)
        line = {"kimg": self.kimg, "seconds": round(state.seconds, 2), "images_per_second": round(rate, 2),
                "memory_mb": round(memory_mb(state.device), 1), **stats}  # fmt: skip
        present = faults([*self.lines, line], self.real)
        if self.kimg >= PART * self.config.kimg:  # before that nothing has formed yet
            if present and present != self._warned:
                log.warning(
                    "after %.1f thousand images something is wrong with the generator: %s. The training goes on; if"
                    " this lasts, look at samples-*.png in %s, and train longer or with another recipe",
                    self.kimg,
                    " and ".join(FAULTS[fault] for fault in present),
                    self.folder,
                )
            self._warned = present
        line |= {"health": ", ".join(present)} if present else {}
        line |= {"stopped": self.until.words()} if state.finished and self.until and self.until.dirty else {}
        self.lines.append(line)
        if self.writes:
            self.history.append(**line)
            for watcher in self.watchers:
                watcher.step(state.images, line | {"seconds_per_kimg": 1000 / max(rate, 1e-9)})
        return line

    def finish(self) -> None:
        """Writes the result and deletes the checkpoints."""
        if self.until is not None:
            self.until.finish()
        if self.writes:
            self.keep(self.folder)
            self.checkpoints.clear()
        self.state.processes.barrier()

    def close(self) -> None:
        """Tells the watchers that it is over."""
        for watcher in self.watchers:
            watcher.end()

    def keep(self, folder: Path) -> None:
        """Writes the model as it is now; of a GAN with its discriminator, by which its weights are audited."""
        save_model(folder, self.state.ema, self.record(), getattr(self.state, "discriminator", None))

    def record(self) -> dict[str, Any]:
        """The run's config.json."""
        state, slices = self.state, self.slices
        return {
            "kind": state.model.kind, "model": state.model.model_dump(mode="json"),
            "training": self.config.model_dump(mode="json"), "identity": self.identity, "kimg": self.kimg,
            "steps": state.steps, "seconds": state.seconds, **state.record(),
            "health": summary([line for line in self.lines if line["kimg"] <= self.kimg], self.real),
            "channels": list(slices.channels), "classes": [vars(c) for c in slices.classes],
            "annotation": self.config.annotation, "spacing": slices.spacing, "axes": slices.axes,
            "slices": slices.content_hash, "slice_count": len(self.rows), "torch": torch.__version__,
            **({} if state.parts == 1 else {"shares": state.parts}),
            **({"stopping": self.until.record()} if self.until and self.until.looks else {}),
            **({"damaged_checkpoints": damaged} if (damaged := self.checkpoints.damaged) else {}),
        }  # fmt: skip


class TensorBoardLogger:  # a `Watcher`
    """TensorBoard's event file of a run, below its folder; does nothing if not wanted or not installed.

    Args:
        images: real images shown so far: what an interrupted run wrote after them is hidden.
    """

    def __init__(self, folder: Path, wanted: bool, images: int) -> None:
        self._writer: Any = None
        if not wanted or importlib.util.find_spec("tensorboard") is None:
            return
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and is not needed without it

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images + 1 if images else None)

    def step(self, images: int, stats: Mapping[str, Any]) -> None:
        """Adds a point to each curve; what is not a number is left out."""
        for name, value in stats.items() if self._writer else ():
            if isinstance(value, int | float) and name != "kimg":
                self._writer.add_scalar(name, value, images)
            elif name == "stopped":
                self._writer.add_text(name, value, images)

    def snapshot(self, images: int, picture: NDArray[np.uint8]) -> None:
        """Adds a picture of samples."""
        if self._writer is not None:
            self._writer.add_image("samples", picture, images, dataformats="HWC")

    def end(self) -> None:
        """Writes what is pending."""
        if self._writer is not None:
            self._writer.close()


def sample_grid(images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """Images uint8 [n, C, H, W] and labels [n, H, W] -> picture uint8 [(C + 1) H, n W, 3]: one column a sample, a row
    each channel, and one of the first channel with the classes in colour over it."""
    palette = matplotlib.colormaps["tab10"](np.arange(10))[:, :3] * 255
    colours = palette[(np.arange(classes) - 1) % 10]  # class k has colour k - 1
    first = images[:, 0, :, :, None].repeat(3, axis=3).astype(np.float32)
    overlay = np.where(labels[..., None] > 0, 0.35 * first + 0.65 * colours[labels], first)
    rows = images[..., None].repeat(3, axis=4)  # [n, C, H, W, 3]
    joint = np.concatenate([rows, overlay[:, None].round().astype(np.uint8)], axis=1)
    n, c, h, w, _ = joint.shape
    return joint.transpose(1, 2, 0, 3, 4).reshape(c * h, n * w, 3)


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes an RGB picture as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        matplotlib.image.imsave(temporary, picture, format="png")


def memory_mb(device: torch.device) -> float:
    """Peak memory: of the GPU what tensors took, of the CPU what the process took, MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
