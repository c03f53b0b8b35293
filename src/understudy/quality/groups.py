"""The measures of one set's annotations, its slices in units that can be drawn: patients, or blocks of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from understudy.quality.lesions import ANY, Lesions, measure_lesions
from understudy.quality.sets import Part
from understudy.quality.weighted import Floats

SPREADS = ("area", "components", "compactness", "eccentricity")
"""Measures whose distribution over slices is compared, not only its mean."""

UNITS = {
    "area": "% of the slice", "components": "pieces", "holes": "holes", "stray": "share of pieces",
    "share": "share of slices", "border": "share of the border", "code_distance": "grey values",
}  # fmt: skip


class AnnotationConfig(BaseModel):
    """How annotations are compared.

    Example:
        >>> AnnotationConfig().divisions
        200
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    resamples: int = Field(1000, ge=10, description="of the bootstrap of values")
    distance_resamples: int = Field(200, ge=10, description="of the bootstrap of distances")
    divisions: int = Field(200, ge=0, description="random divisions of the real patients for the floor's range")
    blocks: int = Field(200, ge=2, description="of synthetic slices, drawn as patients are")
    seed: int = Field(0, ge=0, description="of everything drawn")


@dataclass(frozen=True)
class Group:
    """The measures of one part, slices in units.

    Attributes:
        unit: of each slice, [n]; `units` of them.
        columns: measure -> [n, K + 1], NaN where the class is absent (for "area" too, in percent of the slice).
        sums: ratio -> (numerator, denominator), each [units, K + 1].
        borders: [units, K + 1, K + 1], see `Lesions`.
        maps: [units, K, G, G]: shares of cells added up.
        code_distance: [n], or None.
    """

    unit: NDArray[np.int64]
    units: int
    columns: dict[str, Floats]
    sums: dict[str, tuple[Floats, Floats]]
    borders: Floats
    maps: Floats
    code_distance: Floats | None = None


def named(classes: tuple[str, ...]) -> list[tuple[int, str]]:
    """(position in the measures' last axis, name): every class, and all together if there are several."""
    named = list(enumerate(classes))
    return named + ([(len(classes), ANY)] if len(classes) > 1 else [])


def unit_of(measure: str) -> str:
    """The unit of a measure or of a distance, "" where it has none."""
    return UNITS.get(next((k for k in UNITS if measure.removeprefix("mean_").startswith(k)), ""), "")


def collect(part: Part, classes: tuple[str, ...], config: AnnotationConfig, advance: Callable[[int], Any]) -> Group:
    """The measures of a part, streamed; classes in the order of `classes`, whatever theirs is."""
    if part.name == "synthetic":
        units = min(config.blocks, len(part.rows))
        unit = np.arange(len(part.rows)) % units
    else:
        names, unit = np.unique(part.patients, return_inverse=True)
        units = len(names)
    order = np.array([0, *(classes.index(name) + 1 for name in part.slices.class_names)], np.uint8)
    measured, maps, start = [], np.zeros(0), 0
    k = len(classes)
    borders = np.zeros((units, k + 1, k + 1))
    for rows, _, labels in part.slices.blocks(part.rows):
        own = measure_lesions(order[labels], k)
        of = unit[start : start + len(rows)]
        maps = maps if len(maps) else np.zeros((units, *own.maps.shape[1:]))
        np.add.at(maps, of, own.maps)
        np.add.at(borders, of, own.borders)
        measured.append(replace(own, maps=maps[:0], borders=borders[:0]))
        start += len(rows)
        advance(len(rows))
    joined = {f: np.concatenate([getattr(m, f) for m in measured]) for f in Lesions.__dataclass_fields__}
    columns, sums = _of_slices(joined, unit, units, part.slices.resolution**2)
    index = part.slices.index
    told = index["code_distance"].to_numpy(float)[part.rows] if "code_distance" in index else None
    return Group(unit, units, columns, sums, borders, maps, told)


def _of_slices(
    joined: dict[str, Floats], unit: NDArray[np.int64], units: int, pixels: int
) -> tuple[dict[str, Floats], dict[str, tuple[Floats, Floats]]]:
    """Columns and sums of a group, see `Group`."""
    present = joined["area"] > 0
    columns = {"area": np.where(present, 100 * joined["area"] / pixels, np.nan)}
    columns["components"] = np.where(present, joined["components"], np.nan)
    columns |= {name: joined[name] for name in ("compactness", "eccentricity")}

    def added(values: Floats) -> Floats:
        out = np.zeros((units, values.shape[1]))
        np.add.at(out, unit, np.nan_to_num(values))
        return out

    there, all_of_them = added(present.astype(float)), added(np.ones(present.shape))
    sums = {"share": (there, all_of_them)}
    sums |= {f"mean_{name}": (added(columns[name]), there) for name in SPREADS}
    sums["mean_holes"] = (added(joined["holes"]), there)
    sums["stray"] = (added(joined["stray"]), added(joined["components"]))
    return columns, sums


def together(first: Group, second: Group) -> Group:
    """Both groups' slices, with the units of either."""

    def joined(a: Floats, b: Floats) -> Floats:
        return np.concatenate([a, b])

    return Group(
        np.concatenate([first.unit, second.unit + first.units]),
        first.units + second.units,
        {k: joined(v, second.columns[k]) for k, v in first.columns.items()},
        {k: (joined(v[0], second.sums[k][0]), joined(v[1], second.sums[k][1])) for k, v in first.sums.items()},
        joined(first.borders, second.borders),
        joined(first.maps, second.maps),
    )
