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
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter, map_coordinates

from understudy.memorization import conformal
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Floats, Ints, Null
from understudy.memorization.views import IN_PLACE, SHOWN, TESTED, transform
from understudy.roles import Part
from understudy.slices import SliceSet, SliceWriter

Bytes = NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]  # images [n, C, H, W] and labels [n, H, W]

DETECTED = 0.9  # of the copies that must be found; below, an audit that finds nothing says nothing
HEADS = 64  # slices of new patients that lesions are put in, at most
COPY = "noise 5 %"  # planted copies that the histograms show


def _bytes(values: Any) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    # on every pixel Gaussian noise, s.d. `share` of a channel's bright tissue (BrainWeb's convention)
    # bright: 99th percentile of pixels above 0; 255 would drown a channel that was scaled by one bright voxel
    bright = [np.percentile(c[c > 0], 99) if c.any() else 0.0 for c in np.moveaxis(images, 1, 0)]
    return _bytes(images + rng.normal(0, 1, images.shape) * (share * np.array(bright)[None, :, None, None])), labels


def moved(
    images: Bytes, labels: Bytes, rng: np.random.Generator, share: float = 0.0, degrees: float = 0.0,
    magnified: float = 1.0, mirrored: bool = False,
) -> Pair:  # fmt: skip
    """Mirrored, turned to either side and magnified about the middle, then moved by a share of the edge anywhere."""
    out, marks, edge = np.empty_like(images), np.empty_like(labels), images.shape[-1]
    middle = np.full(2, (edge - 1) / 2)
    for i in range(len(images)):
        angle, way = np.deg2rad(degrees) * rng.choice([-1, 1]), rng.uniform(0, 2 * np.pi)
        by = share * edge * np.array([np.sin(way), np.cos(way)])
        back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / magnified
        places = back, middle - back @ (middle + by)
        image, label = (x[..., ::-1] if mirrored else x for x in (images[i], labels[i]))
        planes = [affine_transform(c.astype(float), *places, order=1, mode="nearest") for c in image]
        out[i], marks[i] = _bytes(np.stack(planes)), affine_transform(label, *places, order=0, mode="nearest")
    return out, marks


def quarter_turn(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    return np.ascontiguousarray(transform(images, 1)), np.ascontiguousarray(transform(labels, 1))


def gamma(images: Bytes, labels: Bytes, rng: np.random.Generator, exponent: float) -> Pair:
    return _bytes(255 * (images / 255.0) ** exponent), labels


def contrasts(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    """Another gamma for each channel of each slice: 0.7 to 0.85, or 1 divided by it."""
    exponents = rng.uniform(0.7, 0.85, images.shape[:2]) ** rng.choice([-1, 1], images.shape[:2])
    return _bytes(255 * (images / 255.0) ** exponents[:, :, None, None]), labels


def dim(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    # the contrast of a nearly empty slice, the picture of a patient
    return _bytes(share * images.astype(np.float64)), labels


def blur(images: Bytes, labels: Bytes, rng: np.random.Generator, sigma: float) -> Pair:
    return _bytes(gaussian_filter(images.astype(np.float64), (0, 0, sigma, sigma))), labels


def blend(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float, moved_by: float = 0.0) -> Pair:
    """`share` of the slice and the rest of another planted slice (half the list further on); labels of the larger."""
    other = np.roll(images, len(images) // 2, axis=0)
    both = _bytes(share * images + (1 - share) * other.astype(np.float64))
    return moved(both, labels, rng, moved_by) if moved_by else (both, labels)


def warp(images: Bytes, labels: Bytes, rng: np.random.Generator, share: float) -> Pair:
    """Small elastic deformation, smooth over a tenth of the edge; mean displacement as a share of the edge."""
    edge = images.shape[-1]
    grid = np.mgrid[:edge, :edge].astype(np.float64)
    out, marks = np.empty_like(images), np.empty_like(labels)
    for i in range(len(images)):
        shifts = gaussian_filter(rng.standard_normal((2, edge, edge)), (0, edge / 10, edge / 10))
        places = grid + shifts * (share * edge / np.hypot(*shifts).mean())
        bent = [map_coordinates(c.astype(float), places, order=1, mode="nearest") for c in images[i]]
        out[i] = _bytes(np.stack(bent))
        marks[i] = map_coordinates(labels[i], places, order=0, mode="nearest")
    return out, marks


def everything(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    return noise(*contrasts(*moved(images, labels, rng, 0.04, 6, 1.04), rng), rng, 0.03)


def pasted(
    images: Bytes, labels: Bytes, rng: np.random.Generator, heads: Bytes, lesion: bool, moved_by: float = 0.0
) -> Pair:
    """The annotated region and a rim, or else a disc a third of the edge wide, in one of the `heads`."""
    out, edge = np.empty_like(images), images.shape[-1]
    y, x = np.mgrid[:edge, :edge]
    for i in range(len(images)):
        if lesion:
            part = binary_dilation(labels[i] > 0, iterations=max(1, edge // 32))
        else:  # its middle is where the slice is bright
            smooth = gaussian_filter(images[i].mean(0), edge / 12)
            places = np.argwhere(smooth >= np.quantile(smooth, 0.7))
            row, column = places[rng.integers(len(places))]
            part = np.hypot(y - row, x - column) < edge / 6
        soft = gaussian_filter(part.astype(float), 0.7)
        out[i] = _bytes(soft * images[i] + (1 - soft) * heads[rng.integers(len(heads))])
    pasted_in = out, labels if lesion else np.zeros_like(labels)
    return moved(*pasted_in, rng, moved_by) if moved_by else pasted_in


@dataclass(frozen=True)
class Planted:
    """One way to copy."""

    name: str  # e.g. "noise 5 %"
    change: Callable[[Bytes, Bytes, np.random.Generator], Pair]
    must: bool = False  # be found for an audit to be trusted
    faint: bool = False  # judged as slices of little contrast are, in place
    annotated: bool = False  # made of slices with an annotation that is not tiny


def planted_copies(heads: Bytes, pixel: float | None = None, quarter_turns: bool = False) -> list[Planted]:
    """All kinds. `heads`: slices of new patients, [n, C, H, W], that lesions are put in; `pixel`: its edge in mm."""
    edge = heads.shape[-1]

    def by(share: float) -> str:
        length = share * edge * (pixel or 1)
        return f"{length:.{0 if length >= 10 else 1}f} {'mm' if pixel else 'pixels'}"

    kinds = [
        Planted("exact", lambda images, labels, rng: (images, labels), must=True),
        Planted("noise 2 %", partial(noise, share=0.02), must=True),
        Planted("noise 5 %", partial(noise, share=0.05), must=True),
        Planted("noise 10 %", partial(noise, share=0.10)),
        Planted("gamma 0.7", partial(gamma, exponent=0.7), must=True),
        Planted("gamma 1.4", partial(gamma, exponent=1.4), must=True),
        Planted("contrast of each channel", contrasts),
        Planted("dimmed to 30 %", partial(dim, share=0.3), faint=True),
        Planted(f"blur {by(1 / 40)}", partial(blur, sigma=edge / 40)),
        Planted(f"moved by {by(1 / 64)}", partial(moved, share=1 / 64)),
        Planted(f"moved by {by(0.05)}", partial(moved, share=0.05)),
        Planted(f"moved by {by(0.1)}", partial(moved, share=0.1)),
        Planted("turned by 5 degrees", partial(moved, degrees=5)),
        Planted("turned by 15 degrees", partial(moved, degrees=15)),
        Planted("magnified by 0.9", partial(moved, magnified=0.9)),
        Planted("magnified by 1.1", partial(moved, magnified=1.1)),
        Planted("mirrored", partial(moved, mirrored=True)),
        Planted("mirrored, turned by 5 degrees", partial(moved, mirrored=True, degrees=5)),
        Planted(f"warped by {by(1 / 128)}", partial(warp, share=1 / 128)),
        Planted(f"warped by {by(1 / 64)}", partial(warp, share=1 / 64)),
        Planted("blend 75 % + 25 %", partial(blend, share=0.75)),
        Planted("blend 55 % + 45 %", partial(blend, share=0.55)),
        Planted(f"blend 65 % + 35 %, moved by {by(0.05)}", partial(blend, share=0.65, moved_by=0.05)),
        Planted("moved, turned, magnified, contrast, noise", everything),
        Planted("lesion in another head", partial(pasted, heads=heads, lesion=True), annotated=True),
        Planted("part of the brain in another head", partial(pasted, heads=heads, lesion=False)),
        Planted(
            f"part of the brain in another head, moved by {by(1 / 32)}",
            partial(pasted, heads=heads, lesion=False, moved_by=1 / 32),
        ),
    ]
    return [*kinds, Planted("quarter turn", quarter_turn, must=True)] if quarter_turns else kinds


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
    scores: dict[str, Floats] = field(default_factory=dict)  # kind of copy -> scores [n, V] of `SHOWN`
    unsearched: str = ""  # kind of copy that these sets do not allow to search for, and why

    @property
    def missed(self) -> list[Detection]:
        """Copies that must be found and are not."""
        return [d for d in self.detections if d.must and d.rate < DETECTED]

    @property
    def blind(self) -> list[Detection]:
        """Copies of which too few are found."""
        return [d for d in self.detections if d.rate < DETECTED]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the audit's JSON."""
        plain = {"detection": [asdict(d) for d in self.detections], "false_alarms": asdict(self.false_alarms)}
        return {**plain, "unsearched": self.unsearched}

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Controls:
        """The controls that an audit.json records."""
        found = numbers["controls"]
        alarms: dict[str, Any] = {k: float("nan") if v is None else v for k, v in found["false_alarms"].items()}
        detections = tuple(Detection(**d) for d in found["detection"])
        return cls(detections, FalseAlarms(**alarms), unsearched=found["unsearched"])


def run_controls(
    judged: tuple[Part, Part, Part], nulls: tuple[Null, Null], search: Callable[[SliceSet], pd.DataFrame],
    config: AuditConfig, work_dir: Path | None = None,
) -> Controls:  # fmt: skip
    """Plants copies of judged training slices and searches for them; audits held-out patients against each other.

    `judged`: training, held-out and synthetic slices. `nulls`: of these, and of faint ones. `search`: all slices
    of a set -> nearest training slices. Planted copies, which are training slices, are kept meanwhile in `work_dir`,
    or the system's folder.
    """
    (training, heldout, synthetic), seed = judged, config.seed
    like, annotated = training.slices, _annotated(training)
    without = next((part.name for part in (training, synthetic) if not len(_annotated(part))), "")
    heads = heldout.slices.read(np.sort(heldout.rows[evenly(heldout, HEADS, [seed, 24])]))[0]
    heads = heads[:, [heldout.slices.channels.index(name) for name in like.channels]]
    kinds = planted_copies(heads, like.spacing[0] if like.spacing else None, config.transforms == "dihedral")
    rows = evenly(training, config.copies, [seed, 23])
    planted: list[tuple[Planted, Ints]] = []
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="planted-", dir=work_dir) as folder:
        writer = SliceWriter(Path(folder) / "slices", like.channels, like.classes, like.resolution)
        for number, kind in enumerate(kinds):
            if kind.annotated and without:
                continue
            among = evenly(training.at(annotated), config.copies, [seed, 25]) if kind.annotated else rows
            chosen = annotated[among] if kind.annotated else among
            changed = kind.change(*like.read(training.rows[chosen]), np.random.default_rng([seed, 21, number]))
            writer.append(*changed, [{"id": f"{number}-{i}"} for i in range(len(chosen))])
            planted.append((kind, np.unique(training.codes[chosen], return_inverse=True)[1].astype(np.int64)))
        found = search(writer.close())
    detections, of_kind, start = [], {}, 0
    for kind, clusters in planted:
        part = found.iloc[start : start + len(clusters)]
        start += len(clusters)
        detections.append(_detection(kind, part, clusters, nulls, config.quantile))
        of_kind[kind.name] = scores_of(part, SHOWN)
    unsearched = f"lesion in another head (no {without} slice is annotated)" if without else ""
    return Controls(tuple(detections), false_alarms(nulls[0], config), of_kind, unsearched)


def _annotated(part: Part) -> Ints:
    """Positions of slices with annotations of at least 0.5 % of the slice."""
    share = [(labels > 0).mean((1, 2)) for _, _, labels in part.slices.blocks(part.rows)]
    return np.flatnonzero(np.concatenate(share) >= 0.005).astype(np.int64)


def _detection(
    kind: Planted, found: pd.DataFrame, clusters: Ints, nulls: tuple[Null, Null], quantile: float
) -> Detection:
    """How many of the copies of one kind are flagged; `clusters`: patient of each."""
    null, in_place = nulls
    scores = scores_of(found)
    alone = [conformal.p_values(scores[:, [v]], null.view(v)).flagged(quantile) for v in range(len(TESTED))]
    flagged = conformal.p_values(scores, null).flagged(quantile)
    if kind.faint:
        flagged = conformal.p_values(scores_of(found, (IN_PLACE,)), in_place).flagged(quantile)
    interval = conformal.clustered_wilson(flagged, clusters)
    views = {view: float(alone[v].mean()) for v, view in enumerate(TESTED)}
    median = {view: float(np.nanmedian(scores[:, v])) for v, view in enumerate(TESTED)}
    return Detection(kind.name, kind.must, len(scores), float(flagged.mean()), *interval, views, median)


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
