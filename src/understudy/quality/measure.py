"""Every metric of synthetic against real slices, and beside it the same of held-out patients against real slices.

A distance says little by itself: real slices of other patients have one too. Each number therefore comes with

- `floor`: held-out against training patients, everything else the same;
- `matched`: both at the smaller of their numbers of slices, which most metrics depend on;
- `floor_mean`, `floor_sd`: over random divisions of the same patients into as many training and held-out ones. Whole
  patients are drawn, without replacement: patients drawn twice would look like copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import canonical_json
from understudy.quality.config import QualityConfig
from understudy.quality.extractor import Classifier, Extractor, Features
from understudy.quality.features import FeatureCache
from understudy.quality.frechet import between_features, extrapolated
from understudy.quality.inception_score import inception_score
from understudy.quality.kernel import kernel_distance
from understudy.quality.neighbours import neighbourhoods
from understudy.quality.sets import Part, Parts

FRECHET = "frechet_distance"
KERNEL = "kernel_distance"
SCORE = "inception_score"
NEIGHBOURS = ("precision", "recall", "density", "coverage")
MEAN = "mean"
"""Name in results of the average over channels."""

_Value = tuple[float, float]  # and its standard deviation or standard error, NaN if there is none
_Metric = Callable[[Features, Features, np.random.Generator], dict[str, _Value]]


@dataclass
class Row:
    """One number with all that is needed to read it. NaN where something is not defined.

    Attributes:
        metric, channel, extractor, extractor_sha256, rule, dimension: what was measured how.
        n_real, n_synthetic, n_heldout: slices.
        patients_real, patients_heldout: patients.
        value, sd: synthetic against real slices, all of them; spread over subsets, or the standard error.
        n_matched: the smaller of n_synthetic and n_heldout.
        matched, matched_sd: the same with n_matched synthetic slices: mean and spread over random choices.
        floor: n_matched held-out slices against real ones; the mean over random choices if there are more.
        floor_mean, floor_sd: the same over random divisions of the patients.
        note: what the number's reader must know.
        floors: of each random division; the divisions are the same for every channel, metric and extractor.
    """

    metric: str
    channel: str
    extractor: str
    extractor_sha256: str
    rule: dict[str, Any]
    dimension: int
    n_real: int
    n_synthetic: int
    n_heldout: int = 0
    patients_real: int = 0
    patients_heldout: int = 0
    n_matched: int = 0
    value: float = float("nan")
    sd: float = float("nan")
    matched: float = float("nan")
    matched_sd: float = float("nan")
    floor: float = float("nan")
    floor_mean: float = float("nan")
    floor_sd: float = float("nan")
    note: str = ""
    floors: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Side:
    """Features of a part's rows, and the patient of each as a number; None for synthetic slices."""

    features: Features
    patients: NDArray[np.int64] | None = field(default=None)


def measure(
    parts: Parts, extractor: Extractor, cache: FeatureCache, config: QualityConfig, progress: bool = False
) -> list[Row]:
    """All metrics of one extractor, per channel and averaged over channels.

    Raises:
        UnderstudyError: fewer slices than the extractor has dimensions (unless `extrapolate` or `too_few` says
            otherwise) or than a metric needs, real slices that all look the same.
    """
    _refuse_too_few(parts, extractor, config)
    sets = {part.name: part for part in (parts.real, parts.synthetic, parts.heldout) if part is not None}
    features = {
        name: cache.features(part.slices, parts.channels, extractor, progress=progress) for name, part in sets.items()
    }
    rows = []
    for channel in features["real"]:
        own = {name: features[name][channel] for name in sets}
        if np.ptp(own["real"][parts.real.rows], axis=0).max() == 0:
            raise UnderstudyError(
                f"the real slices all look the same to the extractor {extractor.name}",
                where=f"{parts.real.slices.path}, channel {channel}",
                fix="check the set: are its slices empty?",
            )
        rows += _of_channel(parts, own, channel, extractor, config)
    return rows + _averages(rows)


def _refuse_too_few(parts: Parts, extractor: Extractor, config: QualityConfig) -> None:
    if config.extrapolate or config.too_few == "leave_out":
        return
    for part in (parts.real, parts.synthetic):
        if len(part.rows) < extractor.dimension:
            raise UnderstudyError(
                f"{len(part.rows)} {part.name} slices for features of {extractor.dimension} dimensions"
                f" ({extractor.name}): their Frechet distance would be mostly bias",
                where=part.slices.path,
                fix="give more slices, an extractor of fewer dimensions, or extrapolate (--extrapolate)",
            )


def _of_channel(
    parts: Parts, features: dict[str, Features], channel: str, extractor: Extractor, config: QualityConfig
) -> list[Row]:
    coded = _patient_codes(parts)
    real = _Side(features["real"][parts.real.rows], coded["real"])
    synthetic = features["synthetic"]
    if len(parts.synthetic.rows) < len(synthetic):
        synthetic = synthetic[parts.synthetic.rows]
    held = parts.heldout
    heldout = None if held is None else _Side(features["held-out"][held.rows], coded["held-out"])
    rows: list[Row] = []
    quick = _metrics(extractor, config, config.kernel_floor_subsets)
    for name, (keys, metric) in _metrics(extractor, config, config.kernel_subsets).items():
        rng = np.random.default_rng([config.seed, len(rows)])
        found, note = _valued(metric, keys, real.features, synthetic, rng, config)
        floors, trouble = _floors(quick[name][1], real, synthetic, heldout, config)
        for key, (value, sd) in found.items():
            row = _row(parts, channel, extractor, coded, key, value, sd)
            for column, numbers in floors.items():
                setattr(row, column, numbers[key])
            row.note = _note(row, note, trouble)
            rows.append(row)
    return rows


def _patient_codes(parts: Parts) -> dict[str, NDArray[np.int64] | None]:
    """Part -> number of the patient of each row; held-out patients count on from the real ones."""
    if parts.heldout is None:
        return {"real": None}
    real = np.unique(parts.real.patients, return_inverse=True)[1].astype(np.int64)
    heldout = np.unique(parts.heldout.patients, return_inverse=True)[1].astype(np.int64)
    return {"real": real, "held-out": heldout + real.max() + 1}


def _row(
    parts: Parts, channel: str, extractor: Extractor, coded: dict[str, NDArray[np.int64] | None],
    key: str, value: float, sd: float,
) -> Row:  # fmt: skip
    held = coded.get("held-out")
    return Row(
        metric=key,
        channel=channel,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        rule=extractor.rule,
        dimension=extractor.dimension,
        n_real=len(parts.real.rows),
        n_synthetic=len(parts.synthetic.rows),
        n_heldout=0 if parts.heldout is None else len(parts.heldout.rows),
        n_matched=0 if parts.heldout is None else min(len(parts.heldout.rows), len(parts.synthetic.rows)),
        patients_real=_patients(parts.real),
        patients_heldout=0 if held is None else len(np.unique(held)),
        value=value,
        sd=sd,
    )


def _patients(part: Part) -> int:
    return len(set(part.patients)) if "subject" in part.slices.index else 0


def _metrics(extractor: Extractor, config: QualityConfig, subsets: int) -> dict[str, tuple[tuple[str, ...], _Metric]]:
    """Group -> its metrics' names, and the function of real and other features that gives them."""

    def frechet(real: Features, other: Features, rng: np.random.Generator) -> dict[str, _Value]:
        enough = min(len(real), len(other)) >= extractor.dimension
        return {FRECHET: (between_features(real, other) if enough else float("nan"), float("nan"))}

    def infinite(real: Features, other: Features, rng: np.random.Generator) -> dict[str, _Value]:
        found = extrapolated(real, other, rng)
        return {f"{FRECHET}_infinity": (found.value, found.error)}

    def kernel(real: Features, other: Features, rng: np.random.Generator) -> dict[str, _Value]:
        return {KERNEL: kernel_distance(real, other, rng, subsets, config.kernel_size)}

    def neighbours(real: Features, other: Features, rng: np.random.Generator) -> dict[str, _Value]:
        real, other = (_choice(x, config.neighbours_slices, rng) for x in (real, other))
        found = neighbourhoods(real, other, config.neighbours)
        return {k: (v, float("nan")) for k, v in asdict(found).items()}

    def score(real: Features, other: Features, rng: np.random.Generator) -> dict[str, _Value]:
        assert isinstance(extractor, Classifier)
        return {SCORE: inception_score(extractor.logits(other), rng, config.score_splits)}

    found: dict[str, tuple[tuple[str, ...], _Metric]] = {"frechet": ((FRECHET,), frechet)}
    if config.extrapolate:
        found["infinite"] = ((f"{FRECHET}_infinity",), infinite)
    found |= {"kernel": ((KERNEL,), kernel), "neighbours": (NEIGHBOURS, neighbours)}
    if isinstance(extractor, Classifier):
        found["score"] = ((SCORE,), score)
    return found


def _choice(features: Features, most: int, rng: np.random.Generator) -> Features:
    """At most so many rows, without replacement."""
    if len(features) <= most:
        return features
    return features[np.sort(rng.choice(len(features), most, replace=False))]


def _valued(
    metric: _Metric,
    keys: tuple[str, ...],
    real: Features,
    other: Features,
    rng: np.random.Generator,
    config: QualityConfig,
) -> tuple[dict[str, _Value], str]:
    """The numbers and "", or NaN and why, if sets that are too small are to be left out and not refused."""
    try:
        return metric(real, other, rng), ""
    except UnderstudyError as error:
        if config.too_few == "refuse":
            raise
        return dict.fromkeys(keys, (float("nan"), float("nan"))), f"not computed: {error.what}"


def _floors(
    metric: _Metric, real: _Side, synthetic: Features, heldout: _Side | None, config: QualityConfig
) -> tuple[dict[str, dict[str, Any]], str]:
    """Column of `Row` -> metric -> number, at the smaller of both sides' numbers of slices; why not, or ""."""
    if heldout is None:
        return {}, "no held-out patients, so there is no floor"
    n = min(len(heldout.features), len(synthetic))
    rng = np.random.default_rng([config.seed, 1000])
    try:
        floor, matched = (
            [metric(real.features, _choice(other, n, rng), rng) for _ in range(config.matched if len(other) > n else 1)]
            for other in (heldout.features, synthetic)
        )
        divided = [metric(a, _choice(b, n, rng), rng) for a, b in _divisions(real, heldout, config)]
    except UnderstudyError as error:
        return {}, f"no floor: {error.what}"
    keys = list(floor[0])
    out: dict[str, dict[str, Any]] = {"floors": {k: [d[k][0] for d in divided] for k in keys}}
    drawn = {
        "floor": {k: [f[k][0] for f in floor] for k in keys},
        "matched": {k: [m[k][0] for m in matched] for k in keys},
    }
    spread = {name: {k: _spread(v) for k, v in values.items()} for name, values in drawn.items()}
    divisions = {k: _spread(v) for k, v in out["floors"].items()}
    out["floor"] = {k: v[0] for k, v in spread["floor"].items()}
    out["matched"], out["matched_sd"] = ({k: v[i] for k, v in spread["matched"].items()} for i in (0, 1))
    out["floor_mean"], out["floor_sd"] = ({k: v[i] for k, v in divisions.items()} for i in (0, 1))
    return out, ""


def _spread(found: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of those that are defined: a division may leave fewer slices than dimensions."""
    values = np.array(found)[np.isfinite(found)]
    mean = float(values.mean()) if len(values) else float("nan")
    return mean, float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _divisions(real: _Side, heldout: _Side, config: QualityConfig) -> Iterator[tuple[Features, Features]]:
    """Random divisions of all real patients into as many real and held-out ones as there are."""
    if real.patients is None or heldout.patients is None:
        return
    rng = np.random.default_rng([config.seed, 2000])  # of its own: the same patients for every metric and channel
    features = np.concatenate([real.features, heldout.features])
    patients = np.concatenate([real.patients, heldout.patients])
    held = len(np.unique(heldout.patients))
    for _ in range(config.divisions):
        out = np.isin(patients, rng.choice(patients.max() + 1, held, replace=False))
        yield features[~out], features[out]


def _note(row: Row, note: str, trouble: str) -> str:
    if not note and np.isnan(row.value):
        return f"not computed: fewer slices than the {row.dimension} dimensions"
    if not trouble and np.isnan(row.floor):
        trouble = f"no floor: {row.n_matched} slices are fewer than the {row.dimension} dimensions"
    return note or trouble


def _averages(rows: list[Row]) -> list[Row]:
    """Rows called "mean": every number averaged over the channels; nothing if there is only one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.metric, []).append(row)
    out = []
    for group in groups.values():
        if len(group) < 2:
            continue
        first = asdict(group[0])
        for column in ("value", "matched", "floor", "floor_mean"):
            first[column] = float(np.mean([getattr(r, column) for r in group]))
        # Channels of a slice are not independent: only the divisions, the same in all, can be averaged one by one.
        first["floors"] = np.mean([r.floors for r in group], axis=0).tolist()
        spreads = {"sd": float("nan"), "matched_sd": float("nan"), "floor_sd": _spread(first["floors"])[1]}
        out.append(Row(**{**first, **spreads, "channel": MEAN}))
    return out


def unmeasured(parts: Parts, extractor: Extractor, note: str) -> Row:
    """The row of an extractor that cannot judge these parts, and why."""
    return Row(
        FRECHET, MEAN, extractor.name, extractor.sha256, extractor.rule, extractor.dimension,
        len(parts.real.rows), len(parts.synthetic.rows), note=note,
    )  # fmt: skip


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """The raw numbers, one row each; the rule and the divisions' floors (null: undefined) as JSON text."""
    found = []
    for row in rows:
        floors = [v if np.isfinite(v) else None for v in row.floors]
        found.append({**asdict(row), "rule": canonical_json(row.rule), "floors": canonical_json(floors)})
    return pd.DataFrame(found)
