"""The two controls of every audit: does it find copies made on purpose, and does it leave new patients alone?

To plant another kind of copy, write one function and one line of `planted_copies`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from understudy.memorization import conformal
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Floats, Ints, Null
from understudy.memorization.views import TESTED, transform
from understudy.roles import Part
from understudy.slices import SliceSet, SliceWriter

Bytes = NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]  # images [n, C, H, W] and labels [n, H, W]

DETECTED = 0.9  # of the copies that must be found; below, an audit that finds nothing says nothing
COPY = "noise 5 %"  # planted copies that the histograms show


def _bytes(values: Any) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    # on every pixel Gaussian noise, s.d. `share` of a channel's bright tissue (BrainWeb's convention)
    # bright: 99th percentile of pixels above 0; 255 would drown a channel that was scaled by one bright voxel
    bright = [np.percentile(c[c > 0], 99) if c.any() else 0.0 for c in np.moveaxis(images, 1, 0)]
    return _bytes(images + rng.normal(0, 1, images.shape) * (share * np.array(bright)[None, :, None, None])), labels


def shift(images: Bytes, labels: Bytes, rng: np.random.Generator, pixels: int) -> Pair:
    # up, down, left or right; the edge is repeated
    moved, marks = np.empty_like(images), np.empty_like(labels)
    for i in range(len(images)):
        axis, back = divmod(int(rng.integers(4)), 2)
        places = (np.arange(images.shape[-1]) - (1 - 2 * back) * pixels).clip(0, images.shape[-1] - 1)
        moved[i], marks[i] = np.take(images[i], places, axis + 1), np.take(labels[i], places, axis)
    return moved, marks


def turned(images: Bytes, labels: Bytes, rng: np.random.Generator, k: int) -> Pair:
    return np.ascontiguousarray(transform(images, k)), np.ascontiguousarray(transform(labels, k))


def gamma(images: Bytes, labels: Bytes, rng: np.random.Generator, exponent: float) -> Pair:
    return _bytes(255 * (images / 255.0) ** exponent), labels


def dim(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    # the contrast of a nearly empty slice, the picture of a patient
    return _bytes(share * images.astype(np.float64)), labels


def blur(images: Bytes, labels: Bytes, rng: np.random.Generator, sigma: float) -> Pair:
    return _bytes(gaussian_filter(images.astype(np.float64), (0, 0, sigma, sigma))), labels


def blend(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    """`share` of the slice and the rest of another planted slice (half the list further on); labels of the larger."""
    other = np.roll(images, len(images) // 2, axis=0)
    return _bytes(share * images + (1 - share) * other.astype(np.float64)), labels


def warp(images: Bytes, labels: Bytes, rng: np.random.Generator, pixels: float) -> Pair:
    """Small elastic deformation, smooth over a tenth of the edge; mean displacement in pixels."""
    edge = images.shape[-1]
    grid = np.mgrid[:edge, :edge].astype(np.float64)
    out, marks = np.empty_like(images), np.empty_like(labels)
    for i in range(len(images)):
        shifts = gaussian_filter(rng.standard_normal((2, edge, edge)), (0, edge / 10, edge / 10))
        places = grid + shifts * (pixels / np.hypot(*shifts).mean())
        bent = [map_coordinates(c.astype(float), places, order=1, mode="nearest") for c in images[i]]
        out[i] = _bytes(np.stack(bent))
        marks[i] = map_coordinates(labels[i], places, order=0, mode="nearest")
    return out, marks


@dataclass(frozen=True)
class Planted:
    """One way to copy."""

    name: str  # e.g. "noise 5 %"
    change: Callable[[Bytes, Bytes, np.random.Generator], Pair]
    must: bool = False  # be found for an audit to be trusted
    faint: bool = False  # judged as slices of little contrast are, by the first view alone


def planted_copies(transforms: str = "none") -> list[Planted]:
    """All kinds; under `transforms` that the search looks for, mirrored copies must be found as well."""
    kinds = [
        Planted("exact", lambda images, labels, rng: (images, labels), must=True),
        Planted("noise 2 %", partial(noise, share=0.02), must=True),
        Planted("noise 5 %", partial(noise, share=0.05), must=True),
        Planted("noise 10 %", partial(noise, share=0.10)),
        Planted("gamma 0.7", partial(gamma, exponent=0.7), must=True),
        Planted("gamma 1.4", partial(gamma, exponent=1.4), must=True),
        Planted("dimmed to 30 %", partial(dim, share=0.3), faint=True),
        Planted("blur 1 pixel", partial(blur, sigma=1.0)),
        Planted("shift 1 pixel", partial(shift, pixels=1)),
        Planted("shift 2 pixels", partial(shift, pixels=2)),
        Planted("warp 0.5 pixels", partial(warp, pixels=0.5)),
        Planted("warp 1 pixel", partial(warp, pixels=1.0)),
        Planted("blend 75 % + 25 %", partial(blend, share=0.75)),
        Planted("blend 50 % + 50 %", partial(blend, share=0.5)),
        Planted("flip", partial(turned, k=4), must=transforms != "none"),
        Planted("quarter turn", partial(turned, k=1), must=True),
    ]
    return kinds if transforms == "dihedral" else kinds[:-1]


@dataclass(frozen=True)
class Detection:
    """How many planted copies of one kind are flagged."""

    name: str
    must: bool
    copies: int
    rate: float  # share flagged by the rule, with its interval by patient
    low: float
    high: float
    views: dict[str, float]  # share that each view alone would flag
    median: dict[str, float]  # of each view's scores


@dataclass(frozen=True)
class FalseAlarms:
    """How many slices of new patients are flagged; NaN where there are too few held-out slices to flag anything."""

    rate: float  # each held-out patient against all others; interval by bootstrap over patients
    low: float
    high: float
    half_rate: float  # held-out patients split in two, one half against the other: mean, range of 95 % of the splits
    half_low: float
    half_high: float
    splits: int
    nominal: float  # what the rule promises, 1 - q
    certain: int = 0  # slices of held-out patients "nearer than chance explains", each patient against all others


@dataclass(frozen=True)
class Controls:
    """Both controls, and what the pictures need."""

    detections: tuple[Detection, ...]
    false_alarms: FalseAlarms
    scores: dict[str, Floats] = field(default_factory=dict)  # kind of copy -> scores [n, V]

    @property
    def missed(self) -> list[Detection]:
        """Copies that must be found and are not."""
        return [d for d in self.detections if d.must and d.rate < DETECTED]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the audit's JSON."""
        return {"detection": [asdict(d) for d in self.detections], "false_alarms": asdict(self.false_alarms)}

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Controls:
        """The controls that an audit.json records."""
        found = numbers["controls"]
        alarms: dict[str, Any] = {k: float("nan") if v is None else v for k, v in found["false_alarms"].items()}
        return cls(tuple(Detection(**d) for d in found["detection"]), FalseAlarms(**alarms))


def run_controls(
    training: Part, null: Null, search: Callable[[SliceSet], pd.DataFrame], config: AuditConfig,
    work_dir: Path | None = None,
) -> Controls:  # fmt: skip
    """Plants copies of judged training slices and searches for them; audits held-out patients against each other.

    `search`: all slices of a set -> nearest training slices (`search.nearest`). Planted copies, which are training
    slices, are kept meanwhile in `work_dir`, or the system's folder.
    """
    kinds, like, quantile = planted_copies(config.transforms), training.slices, config.quantile
    rows = evenly(training, config.copies, [config.seed, 23])
    images, labels = like.read(training.rows[rows])
    clusters = np.unique(training.codes[rows], return_inverse=True)[1].astype(np.int64)
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="planted-", dir=work_dir) as folder:
        writer = SliceWriter(Path(folder) / "slices", like.channels, like.classes, like.resolution)
        for number, kind in enumerate(kinds):
            changed = kind.change(images, labels, np.random.default_rng([config.seed, 21, number]))
            writer.append(*changed, [{"id": f"{number}-{i}"} for i in range(len(images))])
        found = scores_of(search(writer.close())).reshape(len(kinds), len(rows), len(TESTED))
    detections = []
    for kind, scores in zip(kinds, found, strict=True):
        alone = [conformal.p_values(scores[:, [v]], null.view(v)).flagged(quantile) for v in range(len(TESTED))]
        flagged = alone[0] if kind.faint else conformal.p_values(scores, null).flagged(quantile)
        interval = conformal.clustered_wilson(flagged, clusters)
        views = {view: float(alone[v].mean()) for v, view in enumerate(TESTED)}
        median = {view: float(np.nanmedian(scores[:, v])) for v, view in enumerate(TESTED)}
        detections.append(
            Detection(kind.name, kind.must, len(scores), float(flagged.mean()), *interval, views, median)
        )  # fmt: skip
    of_kind = {kind.name: scores for kind, scores in zip(kinds, found, strict=True)}
    return Controls(tuple(detections), false_alarms(null, config), of_kind)


def scores_of(found: pd.DataFrame, views: Sequence[str] = TESTED) -> Floats:
    """Scores [n, V] of the views."""
    return found[[f"{view}.score" for view in views]].to_numpy(np.float64)


def evenly(part: Part, count: int, seed: Sequence[int]) -> Ints:
    """Positions of at most `count` rows, drawn as evenly over the patients as there are slices."""
    order = np.random.default_rng(seed).permutation(len(part.rows))
    turn = pd.Series(part.codes[order]).groupby(part.codes[order]).cumcount().to_numpy()
    return np.asarray(order[np.argsort(turn, kind="stable")][:count], np.int64)


def false_alarms(null: Null, config: AuditConfig) -> FalseAlarms:
    """What the rule does to patients whom the generator never saw."""
    needed, quantile, everyone = conformal.slices_needed(config.quantile), config.quantile, np.arange(null.count)
    # each patient against all others: NaN where the others are too few
    rates, certain = np.full(null.count, np.nan), 0
    for patient in everyone:
        own = null.patients == patient
        if (~own).sum() >= needed:
            p = conformal.p_values(null.scores[own], null.without(everyone == patient))
            rates[patient] = p.flagged(quantile).mean()
            certain += int(p.certain(null.slices, min(500, config.resamples), config.seed).sum())
    rng = np.random.default_rng([config.seed, 22])
    rate = low = high = float("nan")
    if not np.isnan(rates).any():
        sizes = np.bincount(null.patients, minlength=null.count).astype(float)
        drawn = null.drawn(rng, config.resamples)
        rate = float((rates * sizes).sum() / sizes.sum())
        low, high = conformal.percentiles(drawn @ (rates * sizes) / (drawn @ sizes))
    # one half against the other, unless the reference half is too small to flag anything
    halves: list[float] = []
    for _ in range(config.splits if null.count >= 4 else 0):
        first = np.isin(everyone, rng.permutation(null.count)[: null.count // 2])
        others = null.without(first)
        if others.slices >= needed:
            tested = null.scores[first[null.patients]]
            halves.append(float(conformal.p_values(tested, others).flagged(quantile).mean()))
    spread = (float(np.mean(halves)), *conformal.percentiles(np.array(halves))) if halves else (float("nan"),) * 3
    return FalseAlarms(rate, low, high, *spread, len(halves), round(1 - quantile, 12), certain)
