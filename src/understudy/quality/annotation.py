"""The annotations of synthetic slices against those of real ones, with held-out patients as the floor.

Two kinds of numbers. *Values* say what the annotations of a set are like (how many slices have a tumour, how large it
is, what it touches), each with an interval: by patient for real slices, by block of slices for synthetic ones, whose
slices are independent. *Distances* say how far synthetic slices are from real ones. Beside each stands the floor, the
distance of held-out patients, and the range of that floor over random divisions of the same patients: a distance
within the range is one that real patients have among themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.quality.annotation_distances import Distance, distances
from understudy.quality.groups import UNITS, AnnotationConfig, Group, collect, named, unit_of
from understudy.quality.lesions import ANY
from understudy.quality.sets import Part, Parts, make_parts
from understudy.quality.weighted import Floats, Sorted, drawn, interval, ratio
from understudy.runtime.progress import track
from understudy.slices import SliceSet

FORMAT = "understudy-annotations-1"
FEWEST_PATIENTS = 5  # whose positions are added up before the sum is shown to anyone
QUANTILES = (0.1, 0.5, 0.9)
CURVE = 51  # points of a curve of areas, for figures
NAN = float("nan")


@dataclass(frozen=True)
class Value:
    """What the annotations of each set are like in one respect; NaN where undefined.

    Attributes:
        measure, class_name, other: what, of which class, and for borders the class that it touches.
        unit: for people.
        real, real_low, real_high: training patients, 95 % interval by patient; the same for held-out patients and
            synthetic slices.
    """

    measure: str
    class_name: str
    other: str
    unit: str
    real: float = NAN
    real_low: float = NAN
    real_high: float = NAN
    heldout: float = NAN
    heldout_low: float = NAN
    heldout_high: float = NAN
    synthetic: float = NAN
    synthetic_low: float = NAN
    synthetic_high: float = NAN


@dataclass(frozen=True)
class Annotations:
    """The comparison: all numbers, and what its figures are drawn from.

    Attributes:
        classes: names, background left out.
        values, distances: see there.
        slices, patients: set -> how many.
        areas: set -> class -> areas at evenly spaced shares of the slices with the class, % of the slice.
        maps: set -> class -> [G, G], share of slices that have the class there.
        config, notes, sets: how it was made, what a reader must know, hashes of what was compared.
    """

    classes: tuple[str, ...]
    values: list[Value]
    distances: list[Distance]
    slices: dict[str, int]
    patients: dict[str, int]
    areas: dict[str, dict[str, list[float]]]
    maps: dict[str, dict[str, list[list[float]]]]
    config: AnnotationConfig
    notes: list[str]
    sets: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, null where undefined."""
        content = {
            "format": FORMAT,
            "software_version": __version__,
            "classes": self.classes,
            "slices": self.slices,
            "patients": self.patients,
            "values": [asdict(v) for v in self.values],
            "distances": [{**asdict(d), "outside": d.outside} for d in self.distances],
            "areas": self.areas,
            "maps": self.maps,
            "notes": self.notes,
            "sets": self.sets,
            "config": self.config.model_dump(mode="json"),
        }
        return dict(_plain(content))


def compare_annotations(
    real: SliceSet,
    synthetic: SliceSet,
    heldout: SliceSet | None = None,
    config: AnnotationConfig | None = None,
    progress: bool = False,
) -> Annotations:
    """Compares annotations; real and held-out rows are taken as in `make_parts`.

    Args:
        real, synthetic, heldout: the sets; only their annotations are read.
        config: how.
        progress: show it.

    Raises:
        UnderstudyError: other classes or another resolution, a patient on both sides, slices without a patient.
    """
    config = config or AnnotationConfig.model_validate({})
    parts = make_parts(real, synthetic, heldout, channels=())
    found = [part for part in (parts.real, parts.heldout, parts.synthetic) if part is not None]
    for part in found:
        _check_classes(part, real)
    with track(sum(len(p.rows) for p in found), "annotations", "slices", 0, progress) as meter:
        groups = {p.name: collect(p, real.class_names, config, meter.advance) for p in found}
    rng = np.random.default_rng([config.seed, 1])
    values = list(_values(groups, real.class_names, config, rng))
    apart = list(distances(groups, real.class_names, config, rng))
    patients = {p.name: len(set(p.patients)) for p in found if p.name != "synthetic"}
    return Annotations(
        real.class_names, values, apart, {p.name: len(p.rows) for p in found}, patients,
        {name: _area_curves(group, real.class_names) for name, group in groups.items()},
        _maps(groups, parts, patients, real.class_names), config, _notes(parts, groups, patients),
        {p.name: p.slices.content_hash for p in found},
    )  # fmt: skip


def _check_classes(part: Part, real: SliceSet) -> None:
    if set(part.slices.class_names) != set(real.class_names) or not real.class_names:
        raise UnderstudyError(
            f"the {part.name} slices have the classes {', '.join(part.slices.class_names) or 'none'}, the real ones"
            f" {', '.join(real.class_names) or 'none'}",
            where=part.slices.path,
            fix="compare sets with the same classes",
        )


# --- values ---------------------------------------------------------------------------------------------------------


def _values(
    groups: dict[str, Group], classes: tuple[str, ...], config: AnnotationConfig, rng: np.random.Generator
) -> Iterator[Value]:
    weights = {name: drawn(g.units, config.resamples, rng) for name, g in groups.items()}
    for position, name in named(classes):
        for measure in next(iter(groups.values())).sums:
            start = Value(measure, name, "", unit_of(measure))
            parts = {s: (g.sums[measure][0][:, position], g.sums[measure][1][:, position]) for s, g in groups.items()}
            yield _with_ratios(start, parts, weights)
        yield from _area_quantiles(groups, position, name, config, weights)
    every = ("background", *classes)
    for i, name in enumerate(every[1:], start=1):
        for j, other in enumerate(every):
            if i == j:
                continue
            parts = {s: (g.borders[:, i, j], g.borders[:, i].sum(1)) for s, g in groups.items()}
            yield _with_ratios(Value("border", name, other, unit_of("border")), parts, weights)
    yield from _code_distances(groups)


_COLUMN = {"real": "real", "held-out": "heldout", "synthetic": "synthetic"}


def _with_ratios(value: Value, parts: dict[str, tuple[Floats, Floats]], weights: dict[str, Floats]) -> Value:
    fields: dict[str, Any] = {}
    for name, (above, below) in parts.items():
        column = _COLUMN[name]
        fields[column] = float(ratio(above, below, np.ones((1, len(above))))[0])
        fields[f"{column}_low"], fields[f"{column}_high"] = interval(ratio(above, below, weights[name]))
    return replace(value, **fields)


def _area_quantiles(
    groups: dict[str, Group], position: int, name: str, config: AnnotationConfig, weights: dict[str, Floats]
) -> Iterator[Value]:
    """The areas that 10, 50 and 90 % of the slices with the class do not exceed."""
    shares = np.array(QUANTILES)
    fields: list[dict[str, float]] = [{} for _ in shares]
    for part, group in groups.items():
        column, values = _COLUMN[part], Sorted(group.columns["area"][:, position], group.unit)
        whole = values.quantiles(np.ones(group.units), shares)
        some = np.array([values.quantiles(w, shares) for w in weights[part][: config.distance_resamples]])
        for i in range(len(shares)):
            low, high = interval(some[:, i])
            fields[i] |= {column: float(whole[i]), f"{column}_low": low, f"{column}_high": high}
    for share, found in zip(QUANTILES, fields, strict=True):
        yield Value(f"area_p{round(100 * share)}", name, "", UNITS["area"], **found)


def _code_distances(groups: dict[str, Group]) -> Iterator[Value]:
    """Mean, median and 95th percentile over slices of how far a pixel was from its code before it was snapped."""
    told = groups["synthetic"].code_distance
    told = None if told is None else told[np.isfinite(told)]
    if told is None or not len(told):
        return
    figures = {"": told.mean(), "_p50": np.median(told), "_p95": np.quantile(told, 0.95)}
    for suffix, figure in figures.items():
        yield Value(f"code_distance{suffix}", ANY, "", UNITS["code_distance"], synthetic=float(figure))


# --- what figures are drawn from --------------------------------------------------------------------------------------


def _area_curves(group: Group, classes: tuple[str, ...]) -> dict[str, list[float]]:
    shares, ones = np.linspace(0, 1, CURVE), np.ones(group.units)
    return {
        name: Sorted(group.columns["area"][:, position], group.unit).quantiles(ones, shares).round(5).tolist()
        for position, name in named(classes)
        if not np.isnan(group.columns["area"][:, position]).all()
    }


def _maps(
    groups: dict[str, Group], parts: Parts, patients: dict[str, int], classes: tuple[str, ...]
) -> dict[str, dict[str, list[list[float]]]]:
    """Maps of the sets of which enough patients, or none, were added up."""
    return {
        name: {c: (g.maps[:, k].sum(0) / len(g.unit)).round(5).tolist() for k, c in enumerate(classes)}
        for name, g in groups.items()
        if patients.get(name, FEWEST_PATIENTS) >= FEWEST_PATIENTS
    }


def _notes(parts: Parts, groups: dict[str, Group], patients: dict[str, int]) -> list[str]:
    notes = []
    if parts.heldout is None:
        notes.append("There are no held-out patients, so there is no floor.")
    elif patients["held-out"] < FEWEST_PATIENTS:
        notes.append(
            f"Only {patients['held-out']} held-out patients: the floor's range is wide, and distances are rarely"
            " outside it."
        )
    if patients["real"] < FEWEST_PATIENTS:
        notes.append(
            f"Positions of fewer than {FEWEST_PATIENTS} patients are not shown: they could tell of one of them."
        )
    if groups["synthetic"].code_distance is None:
        notes.append("The synthetic set does not say how far its annotation was from the codes.")
    if not groups["synthetic"].sums["share"][0].any():
        notes.append("No synthetic slice has an annotation.")
    return notes


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
