"""Every metric of synthetic against real slices, and beside it the same of held-out patients against real slices.

A distance says little by itself: real slices of other patients have one too. Each number therefore comes with

- `floor`: held-out against training patients, everything else the same;
- `matched`: both at the smaller of their numbers of slices, which most metrics depend on;
- `floor_mean`, `floor_sd`: over random divisions of the same patients into as many training and held-out ones. Whole
  patients are drawn, without replacement: patients drawn twice would look like copies.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, canonical_json, plain, write_text
from understudy.quality import metrics
from understudy.quality.config import QualityConfig
from understudy.quality.extractors import Extractor
from understudy.quality.features import FeatureCache, fitted
from understudy.quality.metrics import NAN, Input, Metric, Setup, Values, choice
from understudy.quality.radiomics import RadiomicExtractor, TumourRadiomics
from understudy.roles import HELD_OUT, TRAINING, Part, check_alike, check_other_patients, part_of
from understudy.slices import SliceSet

FEWEST_ANNOTATED = 16  # pixels of a slice whose tumour is measured
NEARER = "nearer to the training slices than new patients are, as copies would be"
UNDEFINED = "not defined for these slices"


@dataclass(frozen=True)
class Parts:
    """What is compared; `heldout` is None if no patients were held out."""

    synthetic: Part
    real: Part
    heldout: Part | None
    channels: tuple[str, ...]

    def named(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        return {part.name: part for part in (self.real, self.synthetic, self.heldout) if part is not None}


def make_parts(
    synthetic: SliceSet, real: SliceSet, heldout: SliceSet | None = None, channels: Sequence[str] | None = None
) -> Parts:
    """The parts, checked before anything expensive.

    A set with a column `split` gives its "train" rows as real and its validation and test rows as held-out slices,
    also without a held-out set of its own; other sets give all their rows. `channels` None: all, which then must be the
    same in every set. Raises `UnfitSets`.
    """
    first, made, held = part_of("real", real, TRAINING), part_of("synthetic", synthetic), None
    if heldout is not None:
        held = part_of("held-out", heldout, HELD_OUT)
    elif "split" in real.index and len((others := part_of("held-out", real, HELD_OUT)).rows):
        held = others
    check_alike([first, made, *([] if held is None else [held])], channels)
    if held is not None:
        check_other_patients(first, held)
    return Parts(made, first, held, tuple(channels) if channels is not None else real.channels)


class Images:
    """Stands in for an extractor where a metric compares the images themselves."""

    name, sha256, dimension = "images", "", 0
    channels: tuple[str, ...] | None = None
    rule: dict[str, Any] = {"resize": "none"}  # noqa: RUF012

    def features(self, images: NDArray[np.uint8]) -> Input:
        return images


@dataclass
class Row:
    """One number with all that is needed to read it. NaN where something is not defined."""

    metric: str
    channel: str  # or "mean", the average over channels
    extractor: str
    extractor_sha256: str
    rule: dict[str, Any]
    dimension: int
    n_real: int  # slices
    n_synthetic: int
    n_heldout: int = 0
    patients_real: int = 0
    patients_heldout: int = 0
    n_matched: int = 0  # the smaller of n_synthetic and n_heldout
    value: float = NAN  # synthetic against real slices, all of them
    sd: float = NAN  # spread over subsets, or the standard error
    matched: float = NAN  # the same with n_matched synthetic slices: mean over random choices
    matched_sd: float = NAN
    floor: float = NAN  # n_matched held-out slices against real ones; the mean over random choices if there are more
    floor_mean: float = NAN  # the same over random divisions of the patients
    floor_sd: float = NAN
    note: str = ""  # what the number's reader must know
    floors: list[float] = field(default_factory=list)  # of each division, the same for every channel and metric


def compare(
    parts: Parts, extractors: Iterable[Extractor], cache: FeatureCache, config: QualityConfig, progress: bool = False
) -> list[Row]:
    """All metrics: of the features of each extractor (see `measure`), then of the images themselves."""
    rows = [row for extractor in extractors for row in measure(parts, extractor, cache, config, progress)]
    if any(metric.of == "images" for metric in metrics.METRICS):
        rows += measure(parts, Images(), cache, config, progress)
    return rows


def measure(
    parts: Parts, extractor: Extractor, cache: FeatureCache, config: QualityConfig, progress: bool = False
) -> list[Row]:
    """All metrics of one extractor, per channel and averaged over channels.

    Radiomic features are standardised by the real slices; those of the tumour are of slices that have one, and where a
    part has no such slice, one row says so.

    Raises:
        UnderstudyError: fewer slices than the extractor has dimensions (unless `extrapolate` or `too_few` says
            otherwise) or than a metric needs, real slices that all look the same.
    """
    if isinstance(extractor, TumourRadiomics):
        annotated = {name: _annotated(part) for name, part in parts.named().items()}
        if not all(len(part.rows) for part in annotated.values()):
            return [replace(_blank(parts, extractor), note="not computed: no slice of a set has a tumour")]
        parts = Parts(annotated["synthetic"], annotated["real"], annotated.get("held-out"), parts.channels)
    if isinstance(extractor, RadiomicExtractor):
        extractor = fitted(extractor, parts.real.slices, parts.real.rows, parts.channels)
    for part in (parts.real, parts.synthetic):
        if len(part.rows) < extractor.dimension and config.too_few == "refuse" and not config.extrapolate:
            raise UnderstudyError(
                f"{len(part.rows)} {part.name} slices for features of {extractor.dimension} dimensions"
                f" ({extractor.name}): their Frechet distance would be mostly bias",
                where=part.slices.path,
                fix="give more slices, an extractor of fewer dimensions, or extrapolate (--extrapolate)",
            )
    features: dict[str, dict[str, Input]] = {}  # part -> channel -> its features, one slice a row
    if not isinstance(extractor, Images):
        for name, part in parts.named().items():
            found = cache.features(part.slices, parts.channels, extractor, progress=progress)
            every = len(part.rows) == len(part.slices)
            features[name] = {c: x if every else x[part.rows] for c, x in found.items()}
    rows = []
    for channel in features["real"] if features else parts.channels:
        inputs = {  # of images those of one channel at a time
            name: features[name][channel] if features else _images(part, channel)
            for name, part in parts.named().items()
        }
        rows += _of_channel(parts, inputs, channel, extractor, config)
        del inputs
    return rows + _averages(rows)


def _images(part: Part, channel: str) -> Input:
    place = part.slices.channels.index(channel)
    return np.concatenate([images[:, place].copy() for _, images, _ in part.slices.blocks(part.rows)])


def _annotated(part: Part) -> Part:
    sizes = [(labels > 0).sum((1, 2)) for _, _, labels in part.slices.blocks(part.rows)]
    return part.kept(np.concatenate(sizes) >= FEWEST_ANNOTATED)


def _blank(parts: Parts, extractor: Extractor) -> Row:
    return Row(
        "frechet_distance", "mean", extractor.name, extractor.sha256, extractor.rule, extractor.dimension,
        len(parts.real.rows), len(parts.synthetic.rows),
    )  # fmt: skip


def _of_channel(
    parts: Parts, inputs: dict[str, Input], channel: str, extractor: Extractor, config: QualityConfig
) -> list[Row]:
    if np.ptp(inputs["real"], axis=0).max() == 0:
        what = f"the real slices all look the same to the extractor {extractor.name}"
        where = f"{parts.real.slices.path}, channel {channel}"
        raise UnderstudyError(what, where=where, fix="check the set: are its slices empty?")
    held, blank = parts.heldout, _blank(parts, extractor)
    rows: list[Row] = []
    blank.channel, blank.patients_real = channel, parts.real.count if "subject" in parts.real.slices.index else 0
    if held is not None:
        blank.n_heldout, blank.patients_heldout = len(held.rows), held.count
        blank.n_matched = min(len(held.rows), len(parts.synthetic.rows))
    of = "images" if isinstance(extractor, Images) else "features"
    for metric in metrics.METRICS:
        if metric.of != of or not metric.applies(extractor, config):
            continue
        setup = Setup(extractor, config, np.random.default_rng([config.seed, metric.stream]))
        failed = ""
        try:
            found = metric.compute(inputs["synthetic"], inputs["real"], setup)
        except UnderstudyError as error:  # sets that are too small
            if config.too_few == "refuse":
                raise
            found, failed = dict.fromkeys(metric.labels, (NAN, NAN)), f"not computed: {error.what}"
        floors: dict[str, dict[str, Any]] = {}
        trouble = "no held-out patients, so there is no floor"
        if held is not None:
            floors, trouble = _floors(metric, inputs, parts.real.codes, held.codes, setup)
        for key, (value, sd) in found.items():
            row = replace(blank, metric=key, value=value, sd=sd, **floors.get(key, {}))
            row.note = failed or trouble
            if not failed and np.isnan(value):
                few = min(row.n_real, row.n_synthetic) < row.dimension
                why = f"fewer slices than the {row.dimension} dimensions" if few else UNDEFINED
                row.note = f"not computed: {why}"
            elif not row.note and np.isnan(row.floor):
                few = row.n_matched < row.dimension
                why = f"{row.n_matched} slices are fewer than the {row.dimension} dimensions" if few else UNDEFINED
                row.note = f"no floor: {why}"
            row.note = row.note or _too_near(row)
            rows.append(row)
    return rows


def _too_near(row: Row) -> str:
    """What a distance below that of new patients means; "" for others."""
    near = metrics.label_of(row.metric).better is False and row.matched < row.floor
    return NEARER if near else ""


def _floors(
    metric: Metric, inputs: dict[str, Input], patients: NDArray[np.int64], others: NDArray[np.int64], setup: Setup
) -> tuple[dict[str, dict[str, Any]], str]:
    """Key -> columns of `Row`, at the smaller of both sides' numbers of slices; why there are none, or "".

    `patients`, `others`: number of the patient of each real and of each held-out slice.
    """
    synthetic, real, heldout = (inputs[name] for name in ("synthetic", "real", "held-out"))
    config, n = setup.config, min(len(heldout), len(synthetic))
    setup = replace(setup, rng=np.random.default_rng([config.seed, 1000]), floor=True)

    def drawn(other: Input, real: Input) -> Values:
        return metric.compute(choice(other, n, setup.rng), real, setup)

    try:
        floor, matched = (
            [drawn(other, real) for _ in range(config.matched if len(other) > n else 1)]
            for other in (heldout, synthetic)
        )
        # random divisions of all real patients into as many real and held-out ones as there are
        everyone = np.concatenate([real, heldout])
        person = np.concatenate([patients, others + patients.max() + 1])
        rng = np.random.default_rng([config.seed, 2000])  # of its own: the same patients for every metric and channel
        divided = []
        for _ in range(config.divisions):
            out = np.isin(person, rng.choice(person.max() + 1, others.max() + 1, replace=False))
            divided.append(drawn(everyone[out], everyone[~out]))
    except UnderstudyError as error:
        return {}, f"no floor: {error.what}"
    columns: dict[str, dict[str, Any]] = {}
    for key in metric.labels:
        of_floor, of_matched, floors = ([values[key][0] for values in found] for found in (floor, matched, divided))
        own: dict[str, Any] = {"floor": _spread(of_floor)[0], "floors": floors}
        own["matched"], own["matched_sd"] = _spread(of_matched)
        own["floor_mean"], own["floor_sd"] = _spread(floors)
        columns[key] = own
    return columns, ""


def _spread(found: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of those that are defined: a division may leave fewer slices than dimensions."""
    values = np.array(found)[np.isfinite(found)]
    mean = float(values.mean()) if len(values) else NAN
    return mean, float(values.std(ddof=1)) if len(values) > 1 else NAN


def _averages(rows: list[Row]) -> list[Row]:
    """Rows called "mean": every number averaged over the channels; nothing if there is only one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.metric, []).append(row)
    out = []
    for group in (g for g in groups.values() if len(g) > 1):
        names = ("value", "matched", "floor", "floor_mean")
        averaged = {name: float(np.mean([getattr(row, name) for row in group])) for name in names}
        # Channels of a slice are not independent: only the divisions, the same in all, can be averaged one by one.
        floors = np.mean([row.floors for row in group], axis=0).tolist()
        spreads = {"sd": NAN, "matched_sd": NAN, "floor_sd": _spread(floors)[1]}
        mean = replace(group[0], **averaged, **spreads, channel="mean", floors=floors)  # type: ignore[arg-type]
        out.append(replace(mean, note=_too_near(mean)) if mean.note in ("", NEARER) else mean)
    return out


def write_results(folder: str | Path, rows: list[Row], parts: Parts, config: QualityConfig) -> pd.DataFrame:
    """Writes `quality.json` and `quality.parquet`, the same raw numbers (null where undefined); returns the frame."""
    sets = {"real": parts.real, "synthetic": parts.synthetic, "heldout": parts.heldout}
    content = {
        "format": "understudy-quality-1",
        "software_version": __version__,
        "config": config.model_dump(mode="json"),
        "sets": {k: p.slices.content_hash for k, p in sets.items() if p is not None},
        "channels": list(parts.channels),
        "resolution": parts.real.slices.resolution,
        "rows": [plain(asdict(row)) for row in rows],
    }
    folder = Path(folder)
    write_text(folder / "quality.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    # rules and floors of the divisions as JSON text
    frame = pd.DataFrame(
        [{**asdict(row), "rule": canonical_json(row.rule), "floors": canonical_json(plain(row.floors))} for row in rows]
    )
    with atomic_path(folder / "quality.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    return frame
