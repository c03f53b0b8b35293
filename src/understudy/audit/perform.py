"""The audit: three sets in, a folder out that a data steward can read.

`audit.json`, `audit.md` and `p_values.parquet` name no patient and hold no pixel of one. `private/` does: who lies next
to which synthetic slice, and pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy import __version__
from understudy.audit.config import CERTAIN, TESTED, AuditConfig
from understudy.audit.conformal import Null, PValues, beyond_chance, p_values, slices_needed, threshold
from understudy.audit.controls import COPY, Controls, run_controls, scores_of
from understudy.audit.duplicates import repeats
from understudy.audit.intervals import percentiles, wilson
from understudy.audit.membership import Witness, membership
from understudy.audit.sides import NotAuditable, Side, sides
from understudy.audit.similarity import nearest
from understudy.audit.verdict import Flags, Hits, Verdict, flag_bound, verdict
from understudy.files import atomic_path, sha256_json, write_json, write_text
from understudy.slices import SliceSet

FORMAT = "understudy-audit-1"
_BINS = 48  # of the histograms

README = """PRIVATE: not for release.

This folder belongs to an audit and says which training patient lies next to which synthetic slice; its pictures show
training images. Keep it where the training images are kept. What may be shared is beside it: audit.json, audit.md and
p_values.parquet.

neighbours.parquet  every synthetic slice with its nearest training slice, patient and scores
patients.csv        which patient "patient 1", "patient 2", ... of the audit is
histograms.png      nearest scores of synthetic slices, held-out slices and planted copies
gallery.png         the closest pairs: synthetic, nearest training slice, difference
"""


@dataclass
class Audit:
    """A finished audit.

    Attributes:
        numbers: the content of audit.json.
        verdict: in words.
        neighbours: one row a judged synthetic slice: its nearest training slice in the view that decides.
        slices: one row a synthetic slice: p-values and flags, shareable.
        scores: tested views' scores of "synthetic", "held-out" and planted copies, for pictures.
    """

    numbers: dict[str, Any]
    verdict: Verdict
    neighbours: pd.DataFrame
    slices: pd.DataFrame
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def flagged(self) -> NDArray[np.int64]:
        """Rows of the synthetic set that are flagged."""
        return np.flatnonzero(self.slices["flagged"].to_numpy())


def audit(
    training: SliceSet,
    heldout: SliceSet,
    synthetic: SliceSet,
    config: AuditConfig | None = None,
    training_rows: NDArray[np.int64] | None = None,
    witness: Witness | None = None,
    work_dir: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Audit:
    """Compares every synthetic and every held-out slice with all training slices, with controls, and judges.

    Args:
        training, heldout: sets, or one prepared set with a column `split` for both (train against val and test).
        synthetic: what may be released.
        training_rows: what the generator was trained on, if it was not all.
        witness: the generator's score of slices, to ask its weights as well; None without a generator.
        work_dir: keeps the search's progress, so that a killed audit continues.

    Raises:
        NotAuditable: empty sets, other channels or sizes, a patient on both sides, constant slices only.
        UnderstudyError: disk full, too little memory allowed.
    """
    config = config or AuditConfig()
    parts = sides(training, heldout, synthetic, training_rows)
    judged = _judged(parts, config)

    def search(name: str, queries: SliceSet, rows: NDArray[np.int64] | None) -> pd.DataFrame:
        planted = name == "planted"
        return nearest(
            queries, training, query_rows=rows, training_rows=parts[0].rows, config=config.search(not planted),
            work_dir=work_dir / name if work_dir else None, device=device, progress=progress and not planted,
        )  # fmt: skip  # a folder each, since a search clears the parts of another one from its folder

    of_heldout = search("heldout", heldout, judged[1].rows)
    _refuse_training_slices(of_heldout, heldout)
    of_synthetic = search("synthetic", synthetic, judged[2].rows)
    null = Null(scores_of(of_heldout), judged[1].codes)
    controls = run_controls(judged[0], null, lambda made: search("planted", made, None), config, work_dir)
    compared = p_values(scores_of(of_synthetic), null)
    done = _assembled(parts, judged, of_heldout, of_synthetic, compared, controls, config, device)
    if witness is not None and config.membership:
        asked = membership(
            judged[0], judged[1], witness, config.membership_slices, config.resamples, config.seed
        )
        done.numbers["membership"] = asked.as_dict()
    return done


def refused(error: NotAuditable) -> dict[str, Any]:
    """What audit.json says where nothing could be audited."""
    said = Verdict("cannot_tell", f"Cannot tell: {error.what}.", [], [])
    return {
        "format": FORMAT,
        "software_version": __version__,
        "verdict": said.as_dict(),
        "refusal": error.what,
    }


def write_audit(done: Audit, out: str | Path) -> Path:
    """Writes the shareable files, and `private/` without its pictures; returns the path of audit.json.

    Raises:
        UnderstudyError: disk full, no permission.
    """
    out = Path(out)
    write_text(out / "private" / "README.txt", README)
    _write_frame(done.neighbours, out / "private" / "neighbours.parquet")
    names = done.neighbours.loc[done.neighbours["name"] != "", ["name", "patient"]].drop_duplicates()
    write_text(out / "private" / "patients.csv", names.to_csv(index=False))
    _write_frame(done.slices, out / "p_values.parquet")
    write_text(out / "audit.md", as_text(done))
    write_json(out / "audit.json", done.numbers)
    return out / "audit.json"


def as_text(done: Audit) -> str:
    """The verdict and the controls as Markdown."""
    judged, numbers = done.verdict, done.numbers
    rows = [
        f"| {d['name']} | {100 * d['rate']:.0f} % | {100 * d['low']:.0f} to {100 * d['high']:.0f} % |"
        for d in numbers["controls"]["detection"]
    ]
    return "\n".join(
        [
            f"# {judged.headline}",
            "",
            *[f"{sentence}\n" for sentence in judged.sentences],
            *([f"{numbers['membership']['words']}\n"] if numbers["membership"] else []),
            "## Planted copies that this audit finds",
            "",
            f"{numbers['controls']['detection'][0]['copies']:,} training slices of each kind, changed as named.",
            "",
            "| copy | found | 95 % interval by patient |",
            "| --- | --- | --- |",
            *rows,
            "",
            "## What this audit cannot say",
            "",
            *[f"- {limit}" for limit in judged.limits],
            "",
            f"Understudy {numbers['software_version']}, rule: {numbers['rule']['text']}",
            "",
        ]
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _judged(parts: tuple[Side, Side, Side], config: AuditConfig) -> tuple[Side, Side, Side]:
    """The rows that show somebody: neither constant nor nearly empty."""
    if not parts[0].contrast.any():
        raise NotAuditable(
            "all training slices are constant", where=parts[0].slices.path, fix="check how they were prepared"
        )
    least = _least(parts[0], config)
    kept = [part.kept(part.contrast >= least) for part in parts]
    for part, before in zip(kept, parts, strict=True):
        if not len(part.rows):
            raise NotAuditable(
                f"all {before.name} slices are constant or nearly empty",
                where=before.slices.path,
                fix="check how they were made, or lower `least_content`",
            )
    return kept[0], kept[1], kept[2]


def _refuse_training_slices(of_heldout: pd.DataFrame, heldout: SliceSet) -> None:
    """A held-out slice that is a training slice, pixel by pixel, means a patient under two names."""
    same = int((of_heldout["stacked.score"] >= 1).sum())
    if same:
        raise NotAuditable(
            f"{same} of the held-out slices are training slices under another name of their patient",
            where=heldout.path,
            fix="hold out whole patients who were never trained on",
        )


def _least(training: Side, config: AuditConfig) -> float:
    """Contrast (s.d., grey values) below which a slice is nearly empty; a constant one always is."""
    seen = training.contrast[training.contrast > 0]
    return max(1e-9, config.least_content * float(np.median(seen)))


def _assembled(
    parts: tuple[Side, Side, Side],
    judged: tuple[Side, Side, Side],
    of_heldout: pd.DataFrame,
    of_synthetic: pd.DataFrame,
    compared: PValues,
    controls: Controls,
    config: AuditConfig,
    device: str,
) -> Audit:
    null, scores = compared.null, scores_of(of_synthetic)
    flagged = compared.flagged(config.quantile)
    neighbours = _neighbours(parts[0], of_synthetic, scores, compared, flagged)
    hits = _hits(neighbours, parts[0].count)
    flags = _flags(scores, compared, controls, config)
    needed = slices_needed(config.quantile)
    screened = "screened" in parts[2].slices.attrs
    said = verdict(flags, hits, controls, null.count, null.slices, needed, config.quantile, screened)
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
        "more_views": _more_views(of_heldout, of_synthetic, config.quantile),
        "controls": _plain(controls.as_dict()),
        "within": repeated.as_dict() if repeated else None,
        "histograms": _histograms(drawn),
        "membership": None,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip
    listed = _slice_table(parts[2].slices, judged[2], compared, scores, flagged)
    return Audit(numbers, said, neighbours, listed, {**drawn, **controls.scores})


def _flags(scores: NDArray[np.float64], compared: PValues, controls: Controls, config: AuditConfig) -> Flags:
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
        int((compared.patient <= smallest + 1e-12).sum()), int(certain.sum()),
    )  # fmt: skip


def _neighbours(
    training: Side,
    found: pd.DataFrame,
    scores: NDArray[np.float64],
    compared: PValues,
    flagged: NDArray[np.bool_],
) -> pd.DataFrame:
    """The nearest training slice of each judged synthetic slice, in the view where it is the more unusual one."""
    null = compared.null
    alone = np.stack([p_values(scores[:, [v]], null.view(v)).slice for v in range(len(TESTED))], axis=1)
    view = alone.argmin(axis=1)
    take = np.arange(len(view))
    rows = np.stack([found[f"{v}.row"].to_numpy() for v in TESTED], axis=1)[take, view]
    turned = np.stack([found[f"{v}.transform"].to_numpy() for v in TESTED], axis=1)[take, view]
    patient_of = dict(zip(training.rows.tolist(), training.patients.tolist(), strict=True))
    frame = pd.DataFrame(
        {
            "row": found["row"].to_numpy(),
            "p": compared.slice,
            "flagged": flagged,
            "view": np.array(TESTED)[view],
            "training_row": rows,
            "transform": turned,
            "patient": [patient_of.get(int(r), "") for r in rows],
            **{f"{v}.score": scores[:, i] for i, v in enumerate(TESTED)},
        }
    )
    counts = frame.loc[frame["flagged"], "patient"].value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    names = {name: f"patient {i}" for i, name in enumerate(order, start=1)}
    return frame.assign(name=[names.get(p, "") for p in frame["patient"]])


def _hits(neighbours: pd.DataFrame, patients: int) -> Hits:
    counts = neighbours.loc[neighbours["flagged"], "name"].value_counts()
    ordered = sorted(counts.index, key=lambda name: int(name.split()[1]))
    return Hits(len(counts), patients, {name: int(counts[name]) for name in ordered})


def _slice_table(
    synthetic: SliceSet,
    judged: Side,
    compared: PValues,
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
) -> pd.DataFrame:
    """One row a synthetic slice; p-values, never scores' neighbours."""
    frame = pd.DataFrame({"row": np.arange(len(synthetic))})
    if "id" in synthetic.index:
        frame["id"] = synthetic.index["id"].astype(str).to_numpy()
    frame["judged"], frame["flagged"] = False, False
    frame.loc[judged.rows, "judged"], frame.loc[judged.rows, "flagged"] = True, flagged
    columns = {"p": compared.slice, "patient_p": compared.patient}
    for v, view in enumerate(TESTED):
        columns[f"p.{view}"] = p_values(scores[:, [v]], compared.null.view(v)).slice
    for name, values in columns.items():
        frame[name] = np.nan
        frame.loc[judged.rows, name] = values
    return frame


def _set_numbers(part: Side, judged: Side) -> dict[str, Any]:
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
        " (n + 1)); nearly empty slices are not judged"
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


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _plain(value: Any) -> Any:
    """NaN becomes None, tuples become lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _none(value) if isinstance(value, float) else value


def _none(value: float) -> float | None:
    return None if np.isnan(value) else value
