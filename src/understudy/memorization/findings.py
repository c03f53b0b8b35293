"""What an audit found: from scores to flags, patients hit, tables and the numbers of audit.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy import __version__
from understudy.io.files import sha256_json
from understudy.memorization.concentration import Concentration, concentration, votes_of
from understudy.memorization.config import CERTAIN, TESTED, AuditConfig
from understudy.memorization.conformal import Null, PValues, beyond_chance, p_values, slices_needed, threshold
from understudy.memorization.controls import COPY, Controls, scores_of
from understudy.memorization.duplicates import repeats
from understudy.memorization.intervals import percentiles, wilson
from understudy.memorization.result import FORMAT, Audit
from understudy.memorization.sides import Sides
from understudy.memorization.verdict import Flags, Hits, flag_bound, verdict
from understudy.roles import Part
from understudy.slices import SliceSet

_BINS = 48  # of the histograms


@dataclass(frozen=True)
class Compared:
    """Synthetic slices and what was found for them.

    Attributes:
        part: them.
        found: their nearest training slices (`similarity.nearest`).
        null: what they are judged by, a column a view.
        views: these.
    """

    part: Part
    found: pd.DataFrame
    null: Null
    views: tuple[str, ...] = TESTED

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """[m, V] in the views."""
        return scores_of(self.found, self.views)

    @cached_property
    def p(self) -> PValues:
        """p-values."""
        return p_values(self.scores, self.null)


def assembled(
    parts: Sides,
    judged: Sides,
    of_heldout: pd.DataFrame,
    groups: tuple[Compared, Compared],
    controls: Controls,
    config: AuditConfig,
    device: str,
) -> Audit:
    """Everything that an audit says, the weights left out.

    Args:
        parts, judged: the three sets, and their rows with enough contrast to be judged.
        of_heldout: nearest training slices of the judged held-out rows (`similarity.nearest`).
        groups: the judged synthetic slices, and the faint ones.
        controls: planted copies and new patients.
        config, device: of the search for repeats within the synthetic set.
    """
    null, scores, of_synthetic = groups[0].null, groups[0].scores, groups[0].found
    near = [neighbours_of(parts[0], group, config) for group in groups if len(group.found)]
    neighbours = _named(pd.concat(near))
    hits = _hits(neighbours, parts[0].count)
    flags = flags_of(groups, len(parts[2].rows), controls, config)
    heaped = concentration_of(parts[0], groups[0], near[0], of_heldout, config)
    needed = slices_needed(config.quantile)
    screened = "screened" in parts[2].slices.attrs
    said = verdict(flags, hits, controls, null.count, null.slices, needed, config.quantile, screened, heaped)
    repeated = repeats(judged[2], null, len(parts[0].rows), config, device)
    drawn = {"synthetic": scores, "held-out": null.scores, COPY: controls.scores[COPY]}
    numbers = {
        "format": FORMAT,
        "software_version": __version__,
        "verdict": said.as_dict(),
        "refusal": said.headline if said.kind == "cannot_tell" else None,
        "sets": {part.name: _set_numbers(part, kept) for part, kept in zip(parts, judged, strict=True)},
        "rule": _rule(config),
        "null": {
            "slices": null.slices,
            "patients": null.count,
            "smallest_p": null.smallest_p,
            "smallest_patient_p": 1 / (null.count + 1),
            "slices_needed": needed,
            "thresholds": {view: _none(threshold(null.scores[:, v], config.quantile)) for v, view in enumerate(TESTED)},
        },
        "flags": _plain(asdict(flags)),
        "patients": {"hit": hits.patients, "of": hits.of, "worst": hits.worst, "counts": hits.counts},
        "concentration": heaped.as_dict() if heaped else None,
        "more_views": _more_views(of_heldout, of_synthetic, config.quantile),
        "controls": _plain(controls.as_dict()),
        "within": repeated.as_dict() if repeated else None,
        "histograms": _histograms(drawn),
        "membership": None,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip
    listed = slice_table(parts[2].slices, groups, config.quantile)
    return Audit(numbers, said, neighbours, listed, {**drawn, **controls.scores})


def flags_of(groups: tuple[Compared, Compared], slices: int, controls: Controls, config: AuditConfig) -> Flags:
    """How many slices are flagged, with intervals.

    Args:
        groups: the judged synthetic slices, and the faint ones.
        slices: of the set, constant ones too.
        controls: whose false alarms are the base rate of the residual.
        config: quantile, resamples, seed.
    """
    scores, compared, faint = groups[0].scores, groups[0].p, groups[1]
    null, q, seed = compared.null, config.quantile, config.seed
    flagged = compared.flagged(q)
    m, count = len(flagged), int(flagged.sum())
    rate, expected = count / m, round(1 - q, 12)
    drawn = compared.resampled_rates(q, config.resamples, seed)
    low, high = percentiles(drawn)
    sample_low, sample_high = wilson(count, m)
    low, high = min(low, sample_low), max(high, sample_high)  # also where no resample is flagged
    alarm = controls.false_alarms
    base = expected if np.isnan(alarm.rate) else alarm.rate
    residual = (rate - base) / (1 - base)
    # the false alarms' own spread, taken as a normal one, widens the residual's interval
    spread = 0.0 if np.isnan(alarm.rate) else (alarm.high - alarm.low) / 3.92
    bases = np.clip(np.random.default_rng([seed, 12]).normal(base, spread, len(drawn)), 0, 0.999)
    residual_low, residual_high = percentiles((drawn - bases) / (1 - bases))
    beyond = compared.slice <= null.smallest_p + 1e-12
    certain = beyond_chance(scores, compared, m, CERTAIN, config.resamples, seed)
    smallest = 1 / (null.count + 1)
    alone = {v: float(p_values(scores[:, [i]], null.view(i)).flagged(q).mean()) for i, v in enumerate(TESTED)}
    return Flags(
        m, count, rate, low, high, sample_low, sample_high, expected, rate - expected, low - expected, high - expected,
        residual, residual_low, residual_high, flag_bound(count, m), alone, int(beyond.sum()), smallest,
        int((compared.patient <= smallest + 1e-12).sum()), int(certain.sum()) + _certain_of_faint(faint, m, config),
        slices - m, len(faint.part.rows), int(faint.p.flagged(q).sum()) if len(faint.found) else 0,
    )  # fmt: skip


def compared_all(
    judged: Sides, faint: Part, of_heldout: pd.DataFrame, of_synthetic: pd.DataFrame, of_faint: pd.DataFrame
) -> tuple[Compared, Compared]:
    """The judged synthetic slices and the faint ones, beside the held-out slices.

    Faint ones by the first view alone: a dimmed copy's correlation is that of the copy, but less the mean training
    image it is mostly the negative of that.
    """
    null = Null(scores_of(of_heldout), judged[1].codes)
    return Compared(judged[2], of_synthetic, null), Compared(faint, of_faint, null.view(0), TESTED[:1])


def concentration_of(
    training: Part, judged: Compared, near: pd.DataFrame, of_heldout: pd.DataFrame, config: AuditConfig
) -> Concentration | None:
    """Whether the flagged slices heap up beside few training patients; None where none is flagged.

    Args:
        training: all rows that were compared with.
        judged: the judged synthetic slices.
        near: the patients beside them (`neighbours_of`).
        of_heldout: nearest training slices of the judged held-out rows (`similarity.nearest`).
    """
    patient_of = _patient_of(training)
    beside = [
        [patient_of.get(int(r), "") for r in row] for row in of_heldout[[f"{v}.row" for v in judged.views]].to_numpy()
    ]
    votes = votes_of(judged.null, np.array(beside, dtype=np.str_), config.quantile)
    patients = near["patient"].to_numpy().astype(np.str_)
    return concentration(patients[near["flagged"].to_numpy()], patients, votes)


def _certain_of_faint(faint: Compared, judged: int, config: AuditConfig) -> int:
    """Faint slices too near for chance in a set of this size."""
    if not len(faint.found):
        return 0
    tests = judged + len(faint.found)
    return int(beyond_chance(faint.scores, faint.p, tests, CERTAIN, config.resamples, config.seed).sum())


def neighbours_of(training: Part, group: Compared, config: AuditConfig) -> pd.DataFrame:
    """The nearest training slice of each synthetic slice, in the view where it is the more unusual one."""
    null, found, scores = group.null, group.found, group.scores
    alone = np.stack([p_values(scores[:, [v]], null.view(v)).slice for v in range(len(group.views))], axis=1)
    view = alone.argmin(axis=1)
    take = np.arange(len(view))
    rows = np.stack([found[f"{v}.row"].to_numpy() for v in group.views], axis=1)[take, view]
    turned = np.stack([found[f"{v}.transform"].to_numpy() for v in group.views], axis=1)[take, view]
    patient_of = _patient_of(training)
    return pd.DataFrame(
        {
            "row": found["row"].to_numpy(),
            "p": group.p.slice,
            "flagged": group.p.flagged(config.quantile),
            "view": np.array(group.views)[view],
            "training_row": rows,
            "transform": turned,
            "patient": [patient_of.get(int(r), "") for r in rows],
            **{f"{v}.score": scores[:, i] for i, v in enumerate(group.views)},
        }
    )


def _patient_of(training: Part) -> dict[int, str]:
    return dict(zip(training.rows.tolist(), training.patients.tolist(), strict=True))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """In the order of the synthetic rows, with pseudonyms of the patients who are hit."""
    frame = frame.sort_values("row", kind="stable").reset_index(drop=True)
    counts = frame.loc[frame["flagged"], "patient"].value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    names = {name: f"patient {i}" for i, name in enumerate(order, start=1)}
    return frame.assign(name=[names.get(p, "") for p in frame["patient"]])


def _hits(neighbours: pd.DataFrame, patients: int) -> Hits:
    counts = neighbours.loc[neighbours["flagged"], "name"].value_counts()
    ordered = sorted(counts.index, key=lambda name: int(name.split()[1]))
    return Hits(len(counts), patients, {name: int(counts[name]) for name in ordered})


def slice_table(synthetic: SliceSet, groups: tuple[Compared, Compared], quantile: float) -> pd.DataFrame:
    """One row a synthetic slice: p-values and flags; never with whom.

    Args:
        synthetic: the whole set.
        groups: its judged slices, and the faint ones, which may be flagged but are not called judged.
    """
    frame = pd.DataFrame({"row": np.arange(len(synthetic))})
    if "id" in synthetic.index:
        frame["id"] = synthetic.index["id"].astype(str).to_numpy()
    frame["judged"], frame["flagged"] = False, False
    frame.loc[groups[0].part.rows, "judged"] = True
    for group in (g for g in groups if len(g.found)):
        rows, columns = group.part.rows, {"p": group.p.slice, "patient_p": group.p.patient}
        for v, view in enumerate(group.views):
            columns[f"p.{view}"] = p_values(group.scores[:, [v]], group.null.view(v)).slice
        frame.loc[rows, "flagged"] = group.p.flagged(quantile)
        for name, values in columns.items():
            if name not in frame:
                frame[name] = np.nan
            frame.loc[rows, name] = values
    return frame


def _set_numbers(part: Part, judged: Part) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "slices": len(part.rows),
        "judged": len(judged.rows),
        "constant": int((part.contrast == 0).sum()),
        "content_hash": part.slices.content_hash,
        "rows_hash": sha256_json(part.rows.tolist()),
    }
    return numbers if part.name == "synthetic" else {**numbers, "patients": part.count}


def _rule(config: AuditConfig) -> dict[str, Any]:
    level = round(1 - config.quantile, 6)
    text = (
        f"a slice is flagged if its conformal p-value is at most {level:g}: its best rank over the"
        f" views {' and '.join(TESTED)} among all held-out slices (p = (1 + held-out slices at least as extreme) /"
        " (n + 1)); slices of little contrast are compared with training slices of full contrast, and count apart"
    )
    return {
        "quantile": config.quantile,
        "views": list(TESTED),
        "transforms": config.transforms,
        "least_content": config.least_content,
        "text": text,
    }


def _more_views(of_heldout: pd.DataFrame, of_synthetic: pd.DataFrame, quantile: float) -> dict[str, Any]:
    """Flag rates of the views that are for information: single channels and annotations, where they are defined."""
    found: dict[str, dict[str, float | None]] = {}
    for column in of_synthetic.columns:
        view = column.removesuffix(".score")
        if view == column or view in TESTED:
            continue
        mine, theirs = of_synthetic[column].dropna().to_numpy(), of_heldout[column].dropna().to_numpy()
        if not len(mine) or len(theirs) < slices_needed(quantile):
            found[view] = {"slices": len(mine), "heldout": len(theirs), "threshold": None, "rate": None}
            continue
        limit = threshold(theirs, quantile)
        found[view] = {
            "slices": len(mine), "heldout": len(theirs), "threshold": limit, "rate": float((mine > limit).mean()),
        }  # fmt: skip
    return found


def _histograms(drawn: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Counts of the nearest scores of each group, by view, in common bins."""
    shown = {}
    for v, view in enumerate(TESTED):
        columns = {name: scores[:, v][~np.isnan(scores[:, v])] for name, scores in drawn.items()}
        low = min(float(np.quantile(values, 0.002)) for values in columns.values() if len(values))
        edges = np.linspace(low, 1.0, _BINS + 1)
        counts = {name: np.histogram(np.clip(x, low, 1), edges)[0].tolist() for name, x in columns.items()}
        shown[view] = {"edges": edges.round(6).tolist(), "counts": counts}
    return shown


def _plain(value: Any) -> Any:
    """NaN becomes None, tuples become lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _none(value) if isinstance(value, float) else value


def _none(value: float) -> float | None:
    return None if np.isnan(value) else value
