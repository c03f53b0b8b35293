"""`until: memorization`: a training that looks at its own samples, stops by itself and keeps the last clean state.

Every `budget / planned` images the EMA generator's samples of fixed seeds are compared with training slices by a
`Judge`. A look is significant at p <= ALPHA / planned. Two in a row end the training; what it leaves is the state at
the last look before them. So is one at the very end, which no other can confirm.
"""

import logging
import math
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.joint import decode
from understudy.generators.registry import network_type
from understudy.generators.training.denoising import PREVIEW_SAMPLER
from understudy.generators.training.state import TrainingState
from understudy.slices import SliceSet

log = logging.getLogger(__name__)

SAMPLES = 200  # at a look
LEAST, MOST = 2, 20  # looks
COST = 0.1  # of the training's operations that all looks take at most
ALPHA = 0.05  # chance that a training that copies nobody is stopped


class Judge(Protocol):
    """Compares samples with training slices."""

    identity: str  # hash of all that its judgement depends on
    operations: float  # floating-point operations that a sample costs it, about

    def __call__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> dict[str, float]:
        """Samples that are `too_near`, `of` how many; share `by_chance` at most; `p` of as many or more."""


class Until:
    """The looks of one training. Only the process of rank 0 looks; all stop.

    Attributes:
        looks: what was found so far: images, and what the judge says.
        clean: weights, images, steps and seconds at the last look that was not significant.
    """

    def __init__(self, state: TrainingState, slices: SliceSet, judge: Judge) -> None:
        self.state, self.slices, self.judge = state, slices, judge
        self.planned = planned_looks(state.model, state.config, judge)
        self.budget = math.ceil(state.config.kimg * 1000)
        self.looks: list[dict[str, float]] = []
        self.clean: dict[str, Any] | None = None
        self.seconds = 0.0

    def after_step(self, before: int) -> bool:
        """Looks where it is due after a step that began at `before` images; ends the training if it must. Whether it
        looked."""
        state = self.state
        number, last = (images * self.planned // self.budget for images in (state.images, before))
        if number == last and not state.finished:  # the end may come early
            return False
        if state.processes.rank == 0:
            self._look()
        if state.processes.any(len(self.looks) > 1 and all(self.significant(look) for look in self.looks[-2:])):
            state.finished = True
        return True

    def significant(self, look: dict[str, float]) -> bool:
        """Whether a look finds more than chance explains."""
        return look["p"] <= ALPHA / self.planned

    @property
    def dirty(self) -> bool:
        """Whether the last look is significant."""
        return bool(self.looks) and self.significant(self.looks[-1])

    def _look(self) -> None:
        state, start = self.state, time.monotonic()
        images, labels, _ = decode(state.preview(SAMPLES), self.slices.classes, state.config.annotation)
        look = {"images": state.images, **self.judge(images, labels)}
        self.looks.append(look)
        state.log({"too_near": look["too_near"] / max(1, look["of"]), "too_near_by_chance": look["by_chance"]})
        if not self.significant(look):
            self.clean = {
                "images": state.images, "steps": state.steps, "seconds": state.seconds,
                "networks": {name: {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
                             for name, network in self._networks().items()},
            }  # fmt: skip
        self.seconds += time.monotonic() - start

    def _networks(self) -> dict[str, Any]:
        """What a finished training consists of."""
        found = {"ema": self.state.ema, "discriminator": getattr(self.state, "discriminator", None)}
        return {name: network for name, network in found.items() if network is not None}

    def finish(self) -> None:
        """Goes back to the last clean state if the last look was significant, and says so."""
        state = self.state
        if state.processes.any(self.dirty and self.clean is None):
            what = "the first look at the samples finds too many too near to training slices: no state is clean"
            raise UnderstudyError(what, fix="train on more patients, or a generator with a smaller network or budget")
        if self.dirty and self.clean is not None:
            log.warning("the training %s; kept is the state after %s images", self.words(), f"{self.clean['images']:,}")
            for name, network in self._networks().items():
                network.load_state_dict(self.clean["networks"][name])
            state.images, state.steps, state.seconds = (self.clean[key] for key in ("images", "steps", "seconds"))

    def words(self) -> str:
        """Why it ended."""
        look = self.looks[-1]
        found = f"{look['too_near']:.0f} of {look['of']:.0f} samples too near to training slices"
        ended = "stopped" if self.dirty else "ended"
        return (
            f"{ended} after {look['images']:,} of {self.budget:,} images: {found} at the last of {len(self.looks)}"
            f" looks, where chance explains {100 * look['by_chance']:.1f} %"
        )

    def record(self) -> dict[str, Any]:
        """For config.json."""
        return {
            "until": "memorization", "stopped": self.dirty, "words": self.words(), "budget": self.budget,
            "kept": self.state.images, "planned": self.planned, "alpha": ALPHA, "looks": self.looks,
            "seconds": round(self.seconds, 2),
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, clean weights included."""
        return {"looks": self.looks, "clean": self.clean, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.looks, self.clean, self.seconds = state["looks"], state["clean"], state["seconds"]


def planned_looks(model: Any, config: Any, judge: Judge) -> int:
    """As many as cost a tenth of the training, by counted operations and so the same on every machine."""
    kind = network_type(model.kind)
    steps = config.kimg * 1000 / config.batch  # small ones wait between operations
    training = kind.training_operations(model, config, kind.count) + steps * kind.half_saturation
    sampler = PREVIEW_SAMPLER if kind.takes_sampler else None
    look = SAMPLES * (kind.sampling_operations(model, sampler, kind.count) + judge.operations)
    return min(MOST, max(LEAST, int(COST * training / look)))
