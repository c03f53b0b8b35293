"""The stages of a study in the order in which they run, and what the engine must know of each."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stage; its function has the stage's name."""

    module: str  # of `understudy.study.stages`, in which the function is
    # Raise it whenever the same spec would give another result: a number, not a hash of the source, as a corrected
    # comment must not throw away three days of training. 0 is for pages, whose version follows from their sources.
    version: int
    on_gpu: bool = False  # computes on a device
    training: bool = False  # saves its state on the way and can be stopped at any time
    side: bool = False  # only the report depends on its results


STAGES = {
    "phantom": Stage("data", 1),
    "prepare": Stage("data", 1),
    "generator": Stage("generator", 2, on_gpu=True, training=True),
    "sample": Stage("generator", 2, on_gpu=True),  # 2: the device's precision, larger blocks, other steps
    # 2: little contrast; 3: concentration; 4: copies of held-out patients; 5: copies that moved
    "audit": Stage("audit", 5, on_gpu=True, side=True),
    "segmenter": Stage("segmenter", 3, on_gpu=True, training=True),  # 2: noise from a pool; 3: order of augmentation
    "evaluate": Stage("segmenter", 2, on_gpu=True),  # 2: hd95_surfel, regions
    "quality": Stage("quality", 2, on_gpu=True, side=True),  # 2: nearer than new patients is noted
    "annotations": Stage("quality", 2, side=True),  # 2: intervals lie around their distance
    "report": Stage("report", 0),
    "overview": Stage("report", 0),
}


def stage_functions() -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Stage -> its function of a `Context`; imported here, as these modules build jobs by the table above."""
    modules = {name: importlib.import_module(f"understudy.study.stages.{s.module}") for name, s in STAGES.items()}
    return {name: getattr(module, name) for name, module in modules.items()}
