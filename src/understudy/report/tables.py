"""What all tables of results are made of: the table itself, as LaTeX too, its first columns, its cells."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from understudy.metrics.bootstrap import Estimate
from understudy.metrics.overlap import FOREGROUND, EmptyPolicy, apply_policy
from understudy.metrics.scores import KEPT, WHOLE
from understudy.metrics.statistics import MEAN, METRICS, summarise
from understudy.report.data import ReportData, Setting, bounded, number, percent

POLICIES = {EmptyPolicy.BRATS: "BraTS rule", EmptyPolicy.PAPER: "paper's rule"}
SCOPES = {WHOLE: "all slices", KEPT: "kept slices"}
RESAMPLES = 2000
IDENTITY = ["Network", "Generator", "Orig.", "Aug."]
INTERVAL = "95\N{NO-BREAK SPACE}% interval"

LONG, WIDE = 45, 8  # LaTeX: rows that fit on a page, and columns from which the letters are smaller
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "[": "{[}", "]": "{]}", "\n": " ",
    "±": r"$\pm$", "✓": r"$\checkmark$", "−": r"$-$", "∞": r"$\infty$", "×": r"$\times$", "–": "--", "\u00a0": "~",
    "“": "``", "”": "''", "’": "'", "·": r"$\cdot$", "…": r"\dots{}",
    "→": r"$\to$", "≥": r"$\geq$", "≤": r"$\leq$", "γ": r"$\gamma$", "ρ": r"$\rho$", "τ": r"$\tau$", "σ": r"$\sigma$",
    "μ": r"$\mu$", "µ": r"$\mu$", "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "κ": r"$\kappa$",
    "\u202f": r"\,",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    key: str  # name of its files
    caption: str
    note: str  # how to read it
    header: list[str]
    body: list[list[str]]
    frame: pd.DataFrame  # the numbers
    row_headers: int = 1  # how many of the first columns name the row

    @classmethod
    def of(
        cls, key: str, caption: str, note: str, header: list[str], rows: Iterable[tuple[list[str], dict[str, Any]]],
        row_headers: int = 1,
    ) -> Table:  # fmt: skip
        """From the cells and the numbers of each row."""
        rows = list(rows)
        frame = pd.DataFrame([numbers for _, numbers in rows])
        return cls(key, caption, note, header, [cells for cells, _ in rows], frame, row_headers)

    @property
    def wide(self) -> bool:
        """Too wide to stand beside its words on a page."""
        longest = [max(map(len, column)) for column in zip(self.header, *self.body, strict=False)]
        return len(self.header) > 9 or sum(longest) + 3 * len(longest) > 105


def latex(table: Table) -> str:
    """A table as a LaTeX float, or over several pages if it is long; its first line says which packages it needs."""

    def row(cells: list[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    long = len(table.body) > LONG
    columns = "l" * table.row_headers + "r" * (len(table.header) - table.row_headers)
    words = f"{table.caption}. {table.note}" if table.note else f"{table.caption}."
    caption = rf"\caption{{{escaped(words)}}}"
    label = rf"\label{{tab:{table.key.replace('_', '-')}}}"
    size = r"\footnotesize\setlength{\tabcolsep}{3pt}" if len(table.header) > WIDE else r"\small"
    head, rows = [r"\toprule", row(table.header), r"\midrule"], [row(cells) for cells in table.body]
    needs = r"% needs \usepackage{booktabs} and \usepackage{amssymb}" + r" and \usepackage{longtable}" * long
    if long:
        lines = [
            needs, "{" + size, rf"\begin{{longtable}}{{{columns}}}", caption + label + r" \\", *head, r"\endfirsthead",
            *head, r"\endhead", *rows, r"\bottomrule", r"\end{longtable}", "}",
        ]  # fmt: skip
    else:
        lines = [
            needs, r"\begin{table}", r"\centering", size, caption, label, rf"\begin{{tabular}}{{{columns}}}", *head,
            *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX, and no letter that a usual font lacks."""

    def nearest(character: str) -> str:
        # without its accents, "?" if nothing is left
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        return "".join(LATEX.get(c, c) for c in plain) or "?"

    return "".join(LATEX.get(c, c if ord(c) < 0x100 else nearest(c)) for c in text)


class Summary:
    """`metrics.statistics.summarise` under both policies (column `policy`), and one row of it at a time."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        names = ["setting", "metric", "class_name", "scope", "policy"] if len(frame) else []
        self._rows = {key: i for i, key in enumerate(frame[names].astype(str).itertuples(index=False, name=None))}

    @classmethod
    def of(cls, data: ReportData, rows: pd.DataFrame) -> Summary:
        """From raw rows; empty without any."""
        if rows.empty:
            return cls(pd.DataFrame())
        options = {"seed": data.seed, "resamples": RESAMPLES}
        parts = [summarise(apply_policy(rows, p), METRICS, **options).assign(policy=str(p)) for p in POLICIES]
        return cls(pd.concat(parts, ignore_index=True))

    def pick(self, setting: str, metric: str, name: str, scope: str, policy: str = "brats") -> pd.Series:
        """The row about one thing; NaN and no repeats where there is none."""
        place = self._rows.get((setting, metric, name, scope, policy))
        none = {"value": np.nan, "sd": np.nan, "n_repeats": 0}
        return pd.Series(none) if place is None else self.frame.iloc[place]


def resampling(data: ReportData, scope: str = "") -> dict[str, Any]:
    """Options of everything that is resampled."""
    return {"scope": scope or data.scope, "seed": data.seed, "resamples": RESAMPLES}


def spread(entry: pd.Series, digits: int) -> str:
    """ "0.713 ± 0.009" over several trainings, "0.713" where only one has a value."""
    mean = number(float(entry["value"]), digits)
    sd = number(float(entry["sd"]), digits) if entry["n_repeats"] >= 2 else "–"
    return mean if "–" in (mean, sd) else f"{mean} ± {sd}"


def value(estimate: Estimate) -> str:
    """A relative Dice, e.g. "87 %", as fine as the interval allows; a dash for a share of nothing."""
    return percent(estimate.value, _digits(estimate)) if math.isfinite(estimate.value) else "–"


def interval(estimate: Estimate) -> str:
    """Its interval, e.g. "79 to 93 %"."""
    if not math.isfinite(estimate.low) or math.isnan(estimate.high):
        return "no interval"
    return f"{100 * estimate.low:.{_digits(estimate)}f} to {bounded(estimate.high, _digits(estimate))}"


def _digits(estimate: Estimate) -> int:
    return int(math.isfinite(estimate.high - estimate.low) and estimate.high - estimate.low < 0.03)


def class_columns(data: ReportData, extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """Keys of the summary for the columns of classes, and their headings."""
    keys = [*data.class_names, MEAN, *extra] if len(data.class_names) > 1 else list(data.class_names)
    return keys, [{MEAN: "Mean", FOREGROUND: "All as one"}.get(k, k) for k in keys]


def main_entry(keys: Sequence[str], entries: Sequence[pd.Series]) -> pd.Series:
    """The entry of the mean over the classes, or of the only class."""
    return entries[keys.index(MEAN)] if MEAN in keys else entries[0]


def numbers_of(keys: Sequence[str], entries: Sequence[pd.Series]) -> dict[str, Any]:
    """Columns of a frame: mean and spread of each class, with all trainings and without the collapsed ones."""
    found = {f"{k}_{part}": e[part] for k, e in zip(keys, entries, strict=True) for part in ("value", "sd")}
    broken = [(k, e) for k, e in zip(keys, entries, strict=True) if e.get("n_collapsed", 0)]
    return found | {f"{k}_value_without_collapsed": e["value_without_collapsed"] for k, e in broken}


Row = tuple[Setting, list[pd.Series], list[str], dict[str, Any]]


def score_rows(
    data: ReportData, settings: Sequence[Setting], summary: Summary, keys: Sequence[str], metric: str, digits: int,
    scope: str, policy: str = "brats",
) -> tuple[list[str], list[Row]]:  # fmt: skip
    """Of each setting: the summary's entries of `keys`, their cells, and the first columns of the frame.

    If any training collapsed, two more cells say how many did and the mean without them; their headings come first.
    """
    some, rows = any(data.collapsed_of(s)[0] for s in settings), list[Row]()
    for s in settings:
        entries = [summary.pick(s.id, metric, k, scope, policy) for k in keys]
        cells, (broken, of) = [spread(e, digits) for e in entries], data.collapsed_of(s)
        if some:
            rest = {k: main_entry(keys, entries).get(f"{k}_without_collapsed", np.nan) for k in ("value", "sd")}
            without = spread(pd.Series(rest | {"n_repeats": of - broken}), digits) if broken else ""
            cells += [f"{broken} of {of}", without]
        rows.append((s, entries, cells, data.about(s) | numbers_of(keys, entries)))
    return (["Collapsed", "Without"] if some else []), rows


def span(values: Iterable[int]) -> str:
    """ "784", or "32 to 39" where repeats differ; a dash for none."""
    ends = sorted(set(values))
    return " to ".join(f"{end:,}" for end in dict.fromkeys(ends[:1] + ends[-1:])) or "–"
