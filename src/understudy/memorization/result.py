"""A finished audit, and its folder that a data steward can read.

`audit.json`, `audit.md` and `p_values.parquet` name no patient and hold no pixel of one. `private/` does: who lies next
to which synthetic slice, and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy import __version__
from understudy.io.files import atomic_path, write_json, write_text
from understudy.memorization.verdict import Verdict
from understudy.roles import UnfitSets

FORMAT = "understudy-audit-1"
NEXT = (
    "What to do: look at the nearest pairs in private/gallery.png, let the data's owner decide, and make the package"
    " with `understudy release`."
)

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


def refused(error: UnfitSets) -> dict[str, Any]:
    """What audit.json says where nothing could be audited."""
    cure = f" {error.fix[:1].upper()}{error.fix[1:]}." if error.fix else ""
    said = Verdict("cannot_tell", f"Cannot tell: {error.what}.{cure}", [], [])
    return {"format": FORMAT, "software_version": __version__, "verdict": said.as_dict(), "refusal": error.what}


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
    judged, numbers, null = done.verdict, done.numbers, done.numbers["null"]
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
            *([f"{NEXT}\n"] if judged.kind == "no_sign" else []),
            "## How many copies this audit finds",
            "",
            f"{numbers['controls']['detection'][0]['copies']:,} training slices were changed as named and searched for."
            + " With too few held-out slices to flag any, every share is 0 %."
            * (null["slices"] < null["slices_needed"]),
            "",
            "| copy made on purpose | found | 95 % interval by patient |",
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


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
