"""How far one group's annotations are from another's, with intervals and the floor of held-out patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from understudy.quality.groups import SPREADS, AnnotationConfig, Group, named, together, unit_of
from understudy.quality.weighted import Floats, Pair, drawn, interval, ratio, variation

NAN = float("nan")
POOLED = 2  # cells of a map along an edge that are taken together for a distance


@dataclass(frozen=True)
class Distance:
    """How far synthetic annotations are from real ones in one respect.

    Attributes:
        measure, class_name, unit: what, of which class, in what.
        value, low, high: synthetic against training patients; 95 % percentile interval over patients and blocks
            (resampled distances lie a little above the distance itself).
        floor: held-out against training patients.
        floor_low, floor_high: 2.5 and 97.5 % over random divisions of the patients into as many of each.
    """

    measure: str
    class_name: str
    unit: str
    value: float = NAN
    low: float = NAN
    high: float = NAN
    floor: float = NAN
    floor_low: float = NAN
    floor_high: float = NAN

    @property
    def outside(self) -> bool:
        """Whether real patients are rarely so far from each other."""
        return bool(self.value > self.floor_high)


_Measured = dict[tuple[str, str], float]


def distances(
    groups: dict[str, Group], classes: tuple[str, ...], config: AnnotationConfig, rng: np.random.Generator
) -> Iterator[Distance]:
    """Distances of the synthetic annotations to the training patients', beside those of held-out patients."""
    real, synthetic, held = groups["real"], groups["synthetic"], groups.get("held-out")
    between = _between(real, synthetic, classes)
    value = between(np.ones(real.units), np.ones(synthetic.units))
    some = [
        between(drawn(real.units, 1, rng)[0], drawn(synthetic.units, 1, rng)[0])
        for _ in range(config.distance_resamples)
    ]
    floor: _Measured = {}
    divided: list[_Measured] = []
    if held is not None:
        floor = _between(real, held, classes)(np.ones(real.units), np.ones(held.units))
        both = together(real, held)
        among = _between(both, both, classes)
        for _ in range(config.divisions):
            out = np.zeros(both.units)
            out[rng.choice(both.units, held.units, replace=False)] = 1
            divided.append(among(1 - out, out))
    for key, found in value.items():
        low, high = interval(np.array([s[key] for s in some]))
        floor_low, floor_high = interval(np.array([d[key] for d in divided])) if divided else (NAN, NAN)
        unit = unit_of(key[0])
        yield Distance(*key, unit, found, low, high, floor.get(key, NAN), floor_low, floor_high)


def _between(first: Group, second: Group, classes: tuple[str, ...]) -> Callable[[Floats, Floats], _Measured]:
    """The function of either group's weights that gives all distances, sorted once for all weights."""
    pairs = {
        (measure, position): Pair(
            first.columns[measure][:, position], first.unit, second.columns[measure][:, position], second.unit
        )
        for measure in SPREADS
        for position, _ in named(classes)
    }

    def measured(a: Floats, b: Floats) -> _Measured:
        out: _Measured = {}
        for position, name in named(classes):
            for measure in ("share", "stray", "mean_holes"):
                x, y = (_share(g, measure, position, w) for g, w in ((first, a), (second, b)))
                out[f"{measure.removeprefix('mean_')}_difference", name] = float(abs(x - y))
            for measure in SPREADS:
                gap = pairs[measure, position].gap(a, b)
                out[f"{measure}_wasserstein", name] = gap.wasserstein
                if measure == "area":
                    out["area_ks", name] = gap.kolmogorov_smirnov
        for k, name in enumerate(classes):
            c, d = (np.tensordot(w, g.borders[:, k + 1], 1) for g, w in ((first, a), (second, b)))
            out["border_variation", name] = variation(c, d)
            c, d = (np.tensordot(w, g.maps[:, k], 1) for g, w in ((first, a), (second, b)))
            out["position_variation", name] = variation(_pooled(c), _pooled(d))
        return out

    return measured


def _share(group: Group, measure: str, position: int, weights: Floats) -> float:
    above, below = group.sums[measure]
    return float(ratio(above[:, position], below[:, position], weights[None])[0])


def _pooled(cells: Floats) -> Floats:
    edge = len(cells) // POOLED * POOLED
    return cells[:edge, :edge].reshape(edge // POOLED, POOLED, edge // POOLED, POOLED).sum((1, 3))
