"""The audit: three sets in, a judged comparison with its controls out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, plain, sha256_json, write_json, write_text
from understudy.memorization.comparison import Comparison, compare, sides
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Ints, p_values, threshold
from understudy.memorization.controls import COPY, Controls, run_controls, scores_of
from understudy.memorization.exposure import Exposure, exposure
from understudy.memorization.leaks import Leaks, find_leaks
from understudy.memorization.membership import MembershipScore, membership
from understudy.memorization.search import Search, in_place, searching
from understudy.memorization.verdict import Findings, Verdict
from understudy.memorization.views import IN_PLACE, SHOWN, TESTED
from understudy.memorization.words import README, as_markdown, readers, verdict
from understudy.roles import Part, UnfitSets
from understudy.slices import SliceSet

FORMAT = "understudy-audit-1"


@dataclass
class AuditResult:
    """A finished audit."""

    numbers: dict[str, Any]  # the content of audit.json
    verdict: Verdict  # what was decided, in words
    neighbours: pd.DataFrame  # one row a synthetic slice: its nearest training slice and patient; not to be shared
    heldout: pd.DataFrame  # one row a judged held-out slice: its patient and scores; not to be shared
    slices: pd.DataFrame  # one row a synthetic slice: p-values and flags, without neighbours
    exposure: pd.DataFrame  # one row a training patient: flagged slices beside them, p; not to be shared

    @property
    def flagged(self) -> Ints:
        """Rows of the synthetic set that are flagged."""
        return np.flatnonzero(self.slices["flagged"].to_numpy())

    def as_dict(self) -> dict[str, Any]:
        """The content of audit.json, plain values."""
        return self.numbers

    def plot(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Histograms of the nearest scores by view: held-out, synthetic, planted copies; returns the axes [3, V]."""
        from matplotlib import pyplot

        from understudy.memorization.pictures import histograms

        return histograms(self.numbers, pyplot.figure())

    def save(self, out: str | Path) -> Path:
        """Writes audit.json, audit.md, p_values.parquet, which name no patient, and `private/`; returns the first."""
        out = Path(out)
        write_text(out / "private" / "README.txt", README)
        names = self.neighbours.loc[self.neighbours["name"] != "", ["name", "patient"]].drop_duplicates()
        write_text(out / "private" / "patients.csv", names.to_csv(index=False))
        private = {"private/neighbours.parquet": self.neighbours, "private/heldout.parquet": self.heldout}
        private["private/exposure.parquet"] = self.exposure
        for name, frame in {**private, "p_values.parquet": self.slices}.items():
            with atomic_path(out / name) as temporary:
                frame.to_parquet(temporary, index=False)
        write_text(out / "audit.md", as_markdown(self.numbers))
        write_json(out / "audit.json", self.numbers)
        return out / "audit.json"

    def __repr__(self) -> str:
        flags = self.numbers["flags"]
        return f"AuditResult({self.verdict.kind}, {flags['count']:,} of {flags['judged']:,} slices flagged)"

    def _repr_html_(self) -> str:
        return self.verdict._repr_html_()


def audit(
    train: SliceSet, held_out: SliceSet, synthetic: SliceSet, config: AuditConfig | None = None,
    training_rows: Ints | None = None, membership_score: MembershipScore | None = None, work_dir: Path | None = None,
    device: str = "cpu", progress: bool = False, **fields: Any,
) -> AuditResult:  # fmt: skip
    """Are synthetic slices copies of training slices? With controls, judged by what held-out patients show.

    A slice is flagged if hardly any held-out slice is as near to the training set. Copies of held-out patients are
    searched for in the same way (`leaks`).

    Args:
        train, held_out: sets on disk or in memory, uint8 [N, C, H, W], that name their patients; or one prepared set
            with a column `split` for both (train against val and test).
        synthetic: what may be released.
        training_rows: what the generator was trained on, if it was not all.
        membership_score: the generator's score of slices, for membership inference; None without a generator.
        work_dir: keeps the search's progress, so that a killed audit continues.
        device: where products are computed, e.g. "cuda".
        fields: of `AuditConfig`, in place of `config`, e.g. `quantile=0.95`.

    Raises:
        UnfitSets: empty sets, other channels or sizes, a patient on both sides, constant slices only.
        UnderstudyError: disk full, too little memory allowed.

    Example:
        >>> def heads(patients, seed):
        ...     rng = np.random.default_rng(seed)
        ...     images = rng.integers(0, 255, (10 * len(patients), 1, 8, 8), dtype=np.uint8)
        ...     return SliceSet.from_arrays(images, images[:, 0] * 0, patients=[p for p in patients for _ in range(10)])
        >>> found = audit(heads("abcde", 0), heads("fghijklmno", 1), heads("abcde", 0)[:20])
        >>> found
        AuditResult(copies_found, 20 of 20 slices flagged)
    """
    if config is not None and fields:
        raise UnderstudyError(f"both a config and {', '.join(fields)}", fix="set the fields in the config")
    config = config or AuditConfig.model_validate(fields)

    search = searching(config, device, progress, work_dir)
    comparison = compare(sides(train, held_out, synthetic, training_rows), config, search)
    leaks = find_leaks(comparison.parts, config, search, device)
    controls, decided, numbers = judge(comparison, leaks, search, device, work_dir)
    training, heldout, _ = comparison.judged
    if membership_score is not None and config.membership:
        sizes = config.membership_slices, config.resamples, config.seed
        numbers["membership"] = membership(training, heldout, membership_score, *sizes).as_dict()
    numbers["readers"] = readers(numbers)
    scores = comparison.heldout.filter(regex=r"^row$|\.score$")  # what p-values can be worked out from again
    scores.insert(1, "patient", heldout.patients)
    slices = leaks.marked(comparison.slices)
    exposed = exposure(comparison, controls.false_alarms)
    by_patient = exposed.patients if exposed else pd.DataFrame({"patient": np.unique(training.patients)})
    return AuditResult(plain(numbers), decided, comparison.neighbours, scores, slices, by_patient)


def judge(
    comparison: Comparison, leaks: Leaks, search: Search, device: str = "cpu", work_dir: Path | None = None
) -> tuple[Controls, Verdict, dict[str, Any]]:
    """The controls of a comparison, the verdict, and what audit.json says of it, but for membership inference."""

    def search_planted(copies: SliceSet) -> pd.DataFrame:
        return search("planted", Part("planted", copies, np.arange(len(copies))), comparison.parts.training)

    nulls = comparison.main.null, comparison.faint.null
    controls = run_controls(comparison.judged, nulls, search_planted, comparison.config, work_dir)
    findings = comparison.findings(controls)
    decided = leaks.joined(verdict(findings))
    exposed = exposure(comparison, controls.false_alarms)
    numbers = _numbers(comparison, findings, decided, leaks, exposed)
    return controls, decided, numbers | {"within": _repeats(comparison, device)}


def refused(error: UnfitSets) -> dict[str, Any]:
    """What audit.json says where nothing could be audited."""
    cure = f" {error.fix[:1].upper()}{error.fix[1:]}." if error.fix else ""
    decided = Verdict("cannot_tell", f"Cannot tell: {error.what}.{cure}", [], [])
    return {"format": FORMAT, "software_version": __version__, "verdict": decided.as_dict(), "refusal": error.what}


def _numbers(
    comparison: Comparison, findings: Findings, decided: Verdict, leaks: Leaks, exposed: Exposure | None
) -> dict[str, Any]:
    """The content of audit.json."""
    config, null, hits, concentrated = comparison.config, comparison.main.null, findings.hits, findings.concentration
    quantile = config.quantile
    sets: dict[str, dict[str, Any]] = {}
    for part, judged in zip(comparison.parts, comparison.judged, strict=True):
        sets[part.name] = {
            "slices": len(part.rows),
            "judged": len(judged.rows),
            "constant": int((part.contrast == 0).sum()),
            "content_hash": part.slices.content_hash,
            "rows_hash": sha256_json(part.rows.tolist()),
            **({"patients": part.count} if part.name != "synthetic" else {}),
        }
    rule = (
        f"a slice is flagged if its conformal p-value is at most {round(1 - quantile, 6):g}: the rank of its nearness"
        " to a training slice, moved, warped, blended or in part, among that of all held-out slices (p = (1 + held-out"
        " slices at least as near) / (n + 1)); slices of little contrast are compared with training slices of full"
        " contrast, and count apart"
    )
    return {
        "format": FORMAT,
        "software_version": __version__,
        "verdict": decided.as_dict(),
        "refusal": decided.headline if decided.kind == "cannot_tell" else None,
        "sets": sets,
        "rule": {
            "quantile": quantile, "views": list(TESTED), "transforms": config.transforms,
            "least_content": config.least_content, "text": rule,
        },
        "null": {
            "slices": null.slices,
            "patients": null.count,
            "smallest_p": null.smallest_p,
            "smallest_patient_p": 1 / (null.count + 1),
            "slices_needed": findings.needed,
            "thresholds": {
                view: threshold(scores_of(comparison.heldout, [view])[:, 0], quantile) for view in SHOWN
            },
        },
        "flags": asdict(findings.flags),
        "patients": {
            "hit": len(hits), "of": findings.training, "worst": next(iter(hits.items()), None), "counts": hits,
        },
        "concentration": concentrated.as_dict() if concentrated else None,
        "exposed": exposed.as_dict() if exposed else None,
        "leaks": leaks.as_dict(),
        "controls": findings.controls.as_dict(),
        "within": None,
        "histograms": _histograms(comparison, findings),
        "membership": None,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip


def _repeats(comparison: Comparison, device: str) -> dict[str, Any] | None:
    """Near-duplicates within the synthetic set (mode collapse): nearer to each other than held-out to training."""
    synthetic, config, null = comparison.judged.synthetic, comparison.config, comparison.faint.null
    # at most as many as there are training slices: as many chances to find a neighbour as held-out slices have
    count = min(len(synthetic.rows), config.within, len(comparison.parts.training.rows) + 1)
    if count < 2:
        return None
    rows: Ints = np.sort(np.random.default_rng([config.seed, 31]).choice(synthetic.rows, count, replace=False))
    some = Part(synthetic.name, synthetic.slices, rows)
    near = in_place(some, some, device, skip_itself=True)
    flagged = p_values(scores_of(near, [IN_PLACE]), null).flagged(config.quantile)
    expected = round(1 - config.quantile, 12)
    return {"compared": count, "count": int(flagged.sum()), "rate": float(flagged.mean()), "expected": expected}


def _histograms(comparison: Comparison, findings: Findings) -> dict[str, Any]:
    """Counts of the nearest scores of synthetic and held-out slices and planted copies, by view, in common bins."""
    found = {"synthetic": comparison.main.nearest, "held-out": comparison.heldout}
    groups = {name: scores_of(table, SHOWN) for name, table in found.items()} | {COPY: findings.controls.scores[COPY]}
    shown = {}
    for v, view in enumerate(SHOWN):
        columns = {name: scores[:, v][~np.isnan(scores[:, v])] for name, scores in groups.items()}
        low = min(float(np.quantile(values, 0.002)) for values in columns.values() if len(values))
        edges = np.linspace(low, 1.0, 49)
        counts = {name: np.histogram(np.clip(x, low, 1), edges)[0].tolist() for name, x in columns.items()}
        shown[view] = {"edges": edges.round(6).tolist(), "counts": counts}
    return shown
