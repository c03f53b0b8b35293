"""The annotations of synthetic slices against those of real ones, with held-out patients as the floor.

*Values* say what the annotations of a set are like, each with an interval: by patient for real slices, by block of
slices for synthetic ones, whose slices are independent. *Distances* say how far synthetic slices are from real ones.
Beside each stands the floor, the distance of held-out patients, and the range of that floor over random divisions of
the same patients: a distance within the range is one that real patients have among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import plain
from understudy.quality.config import AnnotationConfig
from understudy.quality.lesions import ANY, GRID, Lesions, measure_lesions
from understudy.quality.measure import make_parts
from understudy.quality.weighted import Floats, Sorted, drawn, interval, ratio, variation
from understudy.roles import Part
from understudy.runtime.progress import track
from understudy.slices import SliceSet

FEWEST_PATIENTS = 5  # whose positions are added up before the sum is shown: of fewer it could tell of one of them
NAN = float("nan")
# measures whose distribution over slices is compared, not only its mean
SPREADS = ("area", "components", "compactness", "eccentricity")
UNITS = {
    "area": "% of the slice", "components": "pieces", "holes": "holes", "stray": "share of pieces",
    "share": "share of slices", "border": "share of the border", "code_distance": "grey values",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What the annotations of each set are like in one respect, with 95 % intervals; NaN where undefined."""

    measure: str
    class_name: str
    other: str  # for borders the class that it touches
    unit: str
    real: float = NAN  # training patients, interval by patient
    real_low: float = NAN
    real_high: float = NAN
    heldout: float = NAN
    heldout_low: float = NAN
    heldout_high: float = NAN
    synthetic: float = NAN  # interval by block
    synthetic_low: float = NAN
    synthetic_high: float = NAN


@dataclass(frozen=True)
class Distance:
    """How far synthetic annotations are from real ones in one respect."""

    measure: str
    class_name: str
    unit: str
    value: float = NAN  # synthetic against training patients
    low: float = NAN  # 95 % over patients and blocks, see `_around`
    high: float = NAN
    floor: float = NAN  # held-out against training patients
    floor_low: float = NAN  # 2.5 and 97.5 % over random divisions of the patients into as many of each
    floor_high: float = NAN

    @property
    def outside(self) -> bool:
        """Whether real patients are rarely so far from each other."""
        return bool(self.value > self.floor_high)


@dataclass(frozen=True)
class Annotations:
    """The comparison: all numbers, and what its figures are drawn from."""

    classes: tuple[str, ...]  # background left out
    values: list[Value]
    distances: list[Distance]
    slices: dict[str, int]  # set -> how many
    patients: dict[str, int]
    areas: dict[str, dict[str, list[float]]]  # set -> class -> areas at evenly spaced shares of its slices, %
    maps: dict[str, dict[str, list[list[float]]]]  # set -> class -> [G, G], share of slices that have it there
    config: AnnotationConfig
    notes: list[str]  # what a reader must know
    sets: dict[str, str]  # hashes of what was compared

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, null where undefined."""
        mine = asdict(self)
        content = {
            "format": "understudy-annotations-1",
            "software_version": __version__,
            **{name: mine[name] for name in ("classes", "slices", "patients", "values")},
            "distances": [{**asdict(d), "outside": d.outside} for d in self.distances],
            **{name: mine[name] for name in ("areas", "maps", "notes", "sets")},
            "config": self.config.model_dump(mode="json"),
        }
        return dict(plain(content))


def compare_annotations(
    synthetic: SliceSet, real: SliceSet, heldout: SliceSet | None = None, config: AnnotationConfig | None = None,
    progress: bool = False,
) -> Annotations:  # fmt: skip
    """Compares annotations, without reading images; real and held-out rows are taken as in `measure.make_parts`.

    Raises:
        UnderstudyError: other classes or another resolution, a patient on both sides, slices without a patient.
    """
    config, classes = config or AnnotationConfig.model_validate({}), real.class_names
    parts = make_parts(synthetic, real, heldout, channels=()).named()
    # in this order: what is drawn at random follows from it
    parts = {name: parts[name] for name in ("real", "held-out", "synthetic") if name in parts}
    for part in parts.values():
        if set(part.slices.class_names) != set(classes) or not classes:
            own, theirs = (", ".join(names) or "none" for names in (part.slices.class_names, classes))
            what = f"the {part.name} slices have the classes {own}, the real ones {theirs}"
            raise UnderstudyError(what, where=part.slices.path, fix="compare sets with the same classes")
    with track(sum(len(p.rows) for p in parts.values()), "annotations", "slices", 0, progress) as meter:
        groups = {name: _collect(p, classes, config, meter.advance) for name, p in parts.items()}
    rng = np.random.default_rng([config.seed, 1])
    patients = {name: part.count for name, part in parts.items() if name != "synthetic"}
    return Annotations(
        classes=classes,
        values=list(_values(groups, classes, config, rng)),
        distances=list(_distances(groups, classes, config, rng)),
        slices={name: len(part.rows) for name, part in parts.items()},
        patients=patients,
        areas={name: _area_curves(group, classes) for name, group in groups.items()},
        maps={
            name: dict(zip(classes, (group.maps.sum(0) / len(group.unit)).round(5).tolist(), strict=True))
            for name, group in groups.items()
            if patients.get(name, FEWEST_PATIENTS) >= FEWEST_PATIENTS
        },
        config=config,
        notes=_notes(groups["synthetic"], patients),
        sets={name: part.slices.content_hash for name, part in parts.items()},
    )


def _notes(synthetic: _Group, patients: dict[str, int]) -> list[str]:
    notes, held = [], patients.get("held-out", 0)
    if not held:
        notes.append("There are no held-out patients, so there is no floor.")
    elif held < FEWEST_PATIENTS:
        notes.append(f"Only {held} held-out patients: the floor's range is wide, and distances are rarely outside it.")
    if patients["real"] < FEWEST_PATIENTS:
        few = FEWEST_PATIENTS
        notes.append(f"Positions of fewer than {few} patients are not shown: they could tell of one of them.")
    if synthetic.code_distance is None:
        notes.append("The synthetic set does not say how far its annotation was from the codes.")
    if not synthetic.sums["share"][0].any():
        notes.append("No synthetic slice has an annotation.")
    return notes


@dataclass(frozen=True)
class _Group:
    """The measures of one part, its slices in units that can be drawn: patients, or blocks of samples."""

    unit: NDArray[np.int64]  # of each slice, [n]
    units: int
    columns: dict[str, Floats]  # measure -> [n, K + 1], NaN where the class is absent ("area" in % of the slice)
    sums: dict[str, Floats]  # ratio -> its numerator and denominator, [2, units, K + 1]
    borders: Floats  # [units, K + 1, K + 1], see `Lesions`
    maps: Floats  # [units, K, G, G]: shares of cells added up
    code_distance: Floats | None = None  # [n]

    def joined(self, other: _Group) -> _Group:
        """Both groups' slices, with the units of either."""
        unit = np.concatenate([self.unit, other.unit + self.units])
        columns = {k: np.concatenate([v, other.columns[k]]) for k, v in self.columns.items()}
        sums = {k: np.concatenate([v, other.sums[k]], axis=1) for k, v in self.sums.items()}
        borders, maps = np.concatenate([self.borders, other.borders]), np.concatenate([self.maps, other.maps])
        return _Group(unit, self.units + other.units, columns, sums, borders, maps)


def _collect(part: Part, classes: tuple[str, ...], config: AnnotationConfig, advance: Callable[[int], Any]) -> _Group:
    """The measures of a part, streamed; classes in the order of `classes`, whatever theirs is."""
    unit = np.arange(len(part.rows)) % config.blocks if part.name == "synthetic" else part.codes
    units = int(unit.max()) + 1
    order = np.array([0, *(classes.index(name) + 1 for name in part.slices.class_names)], np.uint8)
    measured, start, k = [], 0, len(classes)
    cells = min(GRID, part.slices.resolution)
    maps, borders = np.zeros((units, k, cells, cells)), np.zeros((units, k + 1, k + 1))
    for rows, _, labels in part.slices.blocks(part.rows):
        own, of = measure_lesions(order[labels], k), unit[start : start + len(rows)]
        np.add.at(maps, of, own.maps)
        np.add.at(borders, of, own.borders)
        measured.append(replace(own, maps=maps[:0], borders=borders[:0]))
        start += len(rows)
        advance(len(rows))
    joined = {f: np.concatenate([getattr(m, f) for m in measured]) for f in Lesions.__dataclass_fields__}
    present = joined["area"] > 0
    columns = {name: joined[name] for name in ("compactness", "eccentricity")}
    columns["area"] = np.where(present, 100 * joined["area"] / part.slices.resolution**2, np.nan)
    columns["components"] = np.where(present, joined["components"], np.nan)

    def ratio_of(above: NDArray[Any], below: NDArray[Any]) -> Floats:
        out = np.zeros((2, units, k + 1))
        for total, values in zip(out, (above, below), strict=True):
            np.add.at(total, unit, np.nan_to_num(values.astype(float)))
        return out

    sums = {"share": ratio_of(present, np.ones(present.shape))}
    sums |= {f"mean_{name}": ratio_of(columns[name], present) for name in SPREADS}
    sums["mean_holes"] = ratio_of(joined["holes"], present)
    sums["stray"] = ratio_of(joined["stray"], joined["components"])
    index = part.slices.index
    told = index["code_distance"].to_numpy(float)[part.rows] if "code_distance" in index else None
    return _Group(unit, units, columns, sums, borders, maps, told)


def _named(classes: tuple[str, ...]) -> list[tuple[int, str]]:
    """(position in the measures' last axis, name): every class, and all together if there are several."""
    return list(enumerate((*classes, ANY) if len(classes) > 1 else classes))


def _unit_of(measure: str) -> str:
    """The unit of a measure or of a distance, "" where it has none."""
    return UNITS.get(next((k for k in UNITS if measure.removeprefix("mean_").startswith(k)), ""), "")


def _fields(group: str, value: float, resampled: Floats) -> dict[str, float]:
    """The columns of `Value` of a group."""
    column, (low, high) = group.replace("-", ""), interval(resampled)
    return {column: float(value), f"{column}_low": low, f"{column}_high": high}


def _values(
    groups: dict[str, _Group], classes: tuple[str, ...], config: AnnotationConfig, rng: np.random.Generator
) -> Iterator[Value]:
    weights = {name: drawn(g.units, config.resamples, rng) for name, g in groups.items()}

    def ratios(measure: str, name: str, other: str, parts: dict[str, tuple[Floats, Floats]]) -> Value:
        fields: dict[str, float] = {}
        for group, (above, below) in parts.items():
            whole = ratio(above, below, np.ones((1, len(above))))[0]
            fields |= _fields(group, whole, ratio(above, below, weights[group]))
        return Value(measure, name, other, _unit_of(measure), **fields)

    for position, name in _named(classes):
        for measure in groups["real"].sums:
            parts = {s: (g.sums[measure][0, :, position], g.sums[measure][1, :, position]) for s, g in groups.items()}
            yield ratios(measure, name, "", parts)
        # the areas that 10, 50 and 90 % of the slices with the class do not exceed
        shares = np.array([0.1, 0.5, 0.9])
        found: list[dict[str, float]] = [{} for _ in shares]
        for group, own in groups.items():
            areas = Sorted(own.columns["area"][:, position], own.unit)
            some = np.array([areas.quantiles(w, shares) for w in weights[group][: config.distance_resamples]])
            for fields, value, resampled in zip(
                found, areas.quantiles(np.ones(own.units), shares), some.T, strict=True
            ):
                fields |= _fields(group, value, resampled)
        for share, fields in zip(shares, found, strict=True):
            yield Value(f"area_p{round(100 * share)}", name, "", UNITS["area"], **fields)
    every = ("background", *classes)
    for i, name in enumerate(every[1:], start=1):
        for j, other in enumerate(every):
            if i != j:
                parts = {s: (g.borders[:, i, j], g.borders[:, i].sum(1)) for s, g in groups.items()}
                yield ratios("border", name, other, parts)
    # how far a pixel was from its code before it was set to it, over slices
    told = groups["synthetic"].code_distance
    if told is not None and len(told := told[np.isfinite(told)]):
        for suffix, figure in {"": told.mean(), "_p50": np.median(told), "_p95": np.quantile(told, 0.95)}.items():
            yield Value(f"code_distance{suffix}", ANY, "", UNITS["code_distance"], synthetic=float(figure))


def _area_curves(group: _Group, classes: tuple[str, ...]) -> dict[str, list[float]]:
    shares, ones = np.linspace(0, 1, 51), np.ones(group.units)  # the points of a figure's curve
    areas = {name: Sorted(group.columns["area"][:, i], group.unit) for i, name in _named(classes)}
    return {name: own.quantiles(ones, shares).round(5).tolist() for name, own in areas.items() if len(own.values)}


_Measured = dict[tuple[str, str], float]


def _distances(
    groups: dict[str, _Group], classes: tuple[str, ...], config: AnnotationConfig, rng: np.random.Generator
) -> Iterator[Distance]:
    """Distances of the synthetic annotations to the training patients', beside those of held-out patients."""
    real, synthetic, held = groups["real"], groups["synthetic"], groups.get("held-out")

    def between(other: _Group) -> tuple[Callable[[Floats, Floats], _Measured], Floats, Floats]:
        """The distances under weights of all units, real ones first; the weights of either side."""
        first = np.arange(real.units + other.units) < real.units
        return _measured(real.joined(other), classes), first.astype(float), (~first).astype(float)

    measure, ours, theirs = between(synthetic)
    value, some = measure(ours, theirs), []
    for _ in range(config.distance_resamples):
        a, b = ours.copy(), theirs.copy()
        a[: real.units], b[real.units :] = drawn(real.units, 1, rng)[0], drawn(synthetic.units, 1, rng)[0]
        some.append(measure(a, b))
    floor: _Measured = {}
    divided: list[_Measured] = []
    if held is not None:
        measure, ours, theirs = between(held)
        floor = measure(ours, theirs)
        for _ in range(config.divisions):
            out = np.zeros(len(ours))
            out[rng.choice(len(ours), held.units, replace=False)] = 1
            divided.append(measure(1 - out, out))
    for key, found in value.items():
        low_high = _around(found, np.array([m[key] for m in some]))
        range_of_floor = interval(np.array([m[key] for m in divided]))
        yield Distance(*key, _unit_of(key[0]), found, *low_high, floor.get(key, NAN), *range_of_floor)


def _around(value: float, resampled: Floats) -> tuple[float, float]:
    """95 % interval of a distance: resampled sets are farther apart than those that they are drawn from, so the
    resampled distances are moved by the difference of their median from the distance itself."""
    if not np.isfinite(resampled).any():
        return NAN, NAN
    low, high = interval(resampled - (float(np.nanmedian(resampled)) - value))
    return max(0.0, low), high


def _measured(both: _Group, classes: tuple[str, ...]) -> Callable[[Floats, Floats], _Measured]:
    """The function of two groups' weights of the units that gives all distances, sorted once for all weights."""
    columns = {(m, i): Sorted(both.columns[m][:, i], both.unit) for m in SPREADS for i, _ in _named(classes)}

    def pooled(cells: Floats) -> Floats:
        half = len(cells) // 2  # 2 x 2 cells are taken together
        return cells[: 2 * half, : 2 * half].reshape(half, 2, half, 2).sum((1, 3))

    def measured(a: Floats, b: Floats) -> _Measured:
        out: _Measured = {}
        for position, name in _named(classes):
            for measure in ("share", "stray", "mean_holes"):
                above, below = both.sums[measure][:, :, position]
                x, y = ratio(above, below, np.stack([a, b]))
                out[f"{measure.removeprefix('mean_')}_difference", name] = float(abs(x - y))
            for measure in SPREADS:
                out[f"{measure}_wasserstein", name], largest = columns[measure, position].gap(a, b)
                if measure == "area":
                    out["area_ks", name] = largest  # Kolmogorov-Smirnov
        for k, name in enumerate(classes):
            out["border_variation", name] = variation(*(np.tensordot(w, both.borders[:, k + 1], 1) for w in (a, b)))
            maps = (pooled(np.tensordot(w, both.maps[:, k], 1)) for w in (a, b))
            out["position_variation", name] = variation(*maps)
        return out

    return measured
