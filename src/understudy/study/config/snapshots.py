"""Snapshots of a generator's training as generators of their own.

`generators: {sg2: {snapshots: 4, training: {kimg: 100}}}` trains one network and keeps its weights at 25, 50 and 75
kimg as well: besides `sg2` there are then the generators `sg2-25kimg`, `sg2-50kimg` and `sg2-75kimg`, sampled, trained
on and tested like any other, so that `understudy correlate` sees many generators for the price of one.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SnapshotOf(BaseModel):
    """Which training a snapshot is of, and when."""

    model_config = ConfigDict(extra="forbid")

    of: str = Field(description="name of the generator that is trained")
    kimg: float = Field(gt=0, description="thousand real images shown by then")


def snapshot_points(wanted: int | list[float], kimg: float) -> list[float]:
    """Thousand images at each snapshot but the last, which is the finished generator.

    Raises:
        ValueError: a point that is not within the training, or twice.

    Example:
        >>> snapshot_points(4, 100)
        [25.0, 50.0, 75.0]
    """
    if isinstance(wanted, int):
        return [round(kimg * i / wanted, 3) for i in range(1, wanted)]
    points = sorted(float(p) for p in wanted if p != kimg)
    if len(set(points)) < len(points) or not all(0 < p < kimg for p in points):
        raise ValueError(f"`snapshots` must be different numbers of kimg between 0 and {kimg:g}: {wanted}")
    return points


def with_snapshots(generators: dict[str, Any]) -> dict[str, Any]:
    """The generators and, after each that asks for snapshots, these.

    Raises:
        ValueError: snapshots where they make no sense, a name that is taken.
    """
    out: dict[str, Any] = {}
    for name, spec in generators.items():
        wanted = getattr(spec, "snapshots", None)
        if wanted is None:
            out[name] = spec
            continue
        if spec.ensemble > 1 or spec.training.max_minutes is not None:
            raise ValueError(f"{name}: `snapshots` need one training (no `ensemble`) without `max_minutes`")
        points = snapshot_points(wanted, spec.training.kimg)
        training = spec.training.model_copy(update={"keep_weights_kimg": points})
        out[name] = spec.model_copy(update={"snapshots": None, "training": training})
        for kimg in points:
            own = f"{name}-{kimg:g}kimg".replace(".", "_")
            if own in generators:
                raise ValueError(f"the name {own} is that of a snapshot of {name}; use another")
            out[own] = out[name].model_copy(update={"snapshot": SnapshotOf(of=name, kimg=kimg)})
    return out
