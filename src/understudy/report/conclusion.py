"""The answer of a study in four lines, the same in the terminal, on the page and in report.json."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING

from understudy.report.data import count, listed

if TYPE_CHECKING:
    from understudy.report.sections.opening import Part, Verdict

OUT = "OUT"  # stands for the folder of the results, which a report does not know
PARTS = {"val": "validation", "held-out": "other"}  # parts of a split that are not named as they are
LINES = {"useful": "useful?", "copies": "copies?", "release": "may it be released?", "next": "next"}
_RELEASE = {  # kind of `may_be_released`: words, of one generator and of several
    "yes": "nothing that was measured speaks against it; who owns the data decides",
    "copies_found": "no, copies of patients were found",
    "cannot_tell": "no, the search for copies cannot tell",
    "not_audited": "no, copies were not searched for",
    "withheld": "no, it holds copies of patients on whom segmenters were selected or tested",
    "doubted": "not before it is known why segmenters learn more from it than from the real slices",
    "useless": "no copy was found, but nothing shows that the slices are of use",
}


_COPIES = {
    "copies_found": "copies of patients were found", "no_sign": "no sign of copies", "cannot_tell": "cannot tell",
    "not_audited": "not searched for", "no_slices": "there are no slices",
}  # fmt: skip

_AFTER = {  # what has to be done before the study is run again
    "cannot_tell": "what the search for copies asks for: see the section on copies",
    "withheld": "making the slices again without validation and test patients",
    "doubted": "looking for test patients among the slices under other names, and a longer training of the segmenters",
    "useless": "a longer training, or one on more patients",
}


def may_be_released(verdict: Verdict) -> str:
    """A key of `_RELEASE`; "" for a generator that made no slices."""
    copy, useful = verdict.copy, verdict.useful
    if copy.kind == "no_slices":
        return ""
    if useful.kind == "withheld" and not copy.numbers.get("flagged"):
        return "withheld"  # nothing is left that screening could take out
    if copy.kind != "no_sign":
        return copy.kind
    if useful.kind not in ("can_replace", "helps", "partly"):
        return "useless"
    return "doubted" if useful.numbers.get("doubted") else "yes"


def recommended(verdicts: list[Verdict], weights: bool = False) -> Verdict | None:
    """The most useful generator whose slices may be shared, or else whose audit shows no sign of copies; None: there is
    none. `weights`: of those whose weights do not tell who was trained on."""
    clean = [v for v in verdicts if may_be_released(v) in ("yes", "useless") and v.useful.kind != "unanswered"]
    clean = [v for v in clean if not weights or v.weights_tell is False]
    return max([v for v in clean if may_be_released(v) == "yes"] or clean, key=lambda v: v.dice, default=None)


def best_to_share(verdicts: list[Verdict]) -> dict[str, Verdict | None]:
    """The recommended one, by its `slices` and by its `weights`."""
    return {what: recommended(verdicts, weights=what == "weights") for what in ("slices", "weights")}


def conclusion(headline: str, verdicts: list[Verdict], command: str, foreign: Collection[str] = ()) -> dict[str, str]:
    """The four lines by the keys of `LINES`.

    Args:
        verdicts: the best first.
        command: that runs the study.
        foreign: generators that are folders of images.
    """
    copies: dict[str, list[str]] = {}
    release: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        copies.setdefault(_copies_in(verdict.copy), []).append(verdict.name)
        release.setdefault(may_be_released(verdict), []).append(verdict)
    release.pop("", None)
    several = len(verdicts) > 1
    said = {_RELEASE[kind]: [v.name for v in group] for kind, group in release.items()}
    return {
        "useful": headline,
        "copies": _grouped(copies, several) or "There are no synthetic slices.",
        "release": _grouped(said, several) or "There is nothing to release.",
        "next": _next(verdicts, release, command, foreign),
    }


def _grouped(said: dict[str, list[str]], several: bool) -> str:
    """E.g. "Diffusion and StyleGAN 2: no sign of copies. Progressive GAN: copies found." """
    lines = [f"{listed(names)}: {words[:1].lower()}{words[1:]}." for words, names in said.items()]
    return " ".join(lines) if several else "".join(f"{words[:1].upper()}{words[1:]}." for words in said)


def _copies_in(copy: Part) -> str:
    """E.g. "copies of patients were found: 30 of 104 slices are too near to a training slice"."""
    n, counts = copy.numbers, dict[str, int](copy.numbers.get("leaked", {}))
    said = [f"{n['flagged']:,} of {n['judged']:,} slices are too near to a training slice"] if n.get("flagged") else []
    for part, found in sorted(counts.items()):
        said.append(f"{count(found, 'slice')} {'show' if found > 1 else 'shows'} {PARTS.get(part, part)} patients")
    return _COPIES[copy.kind] + (f": {', '.join(said)}" if said and copy.kind == "copies_found" else "")


def _next(verdicts: list[Verdict], release: dict[str, list[Verdict]], command: str, foreign: Collection[str]) -> str:
    """The command that comes next."""
    best = {kind: group[0].generator for kind, group in release.items()}
    if "yes" in best and (of := recommended(verdicts)):
        return (
            f"understudy release slices --study {OUT} --generator {of.generator} --about forms/about.yaml --decision"
            f" forms/decision.yaml --out {of.generator}-release (the forms: understudy release template forms)"
        )
    if name := best.get("copies_found"):
        folders = f"{OUT}/synthetic/{name} --audit {OUT}/audits/{name} --training {OUT}/real"
        return f"understudy screen {folders} --out {name}-screened (takes the copies out and audits the rest)"
    if name := best.get("not_audited"):
        folders = f"--training {OUT}/real --synthetic {OUT}/synthetic/{name}"
        return f"understudy audit {folders} --out {name}-audit"
    if not best:
        return f"{command} (no generator has made slices: see what failed)"
    kind, name = next((k, best[k]) for k in _AFTER if k in best)
    if name in foreign:  # `evaluate` has no study file
        command = f"understudy run {OUT}/study.json --out {OUT}"
    return f"{command} (after {_AFTER[kind]})"


def placed(words: str, folder: str) -> str:
    """With a folder for OUT, as a word or the beginning of a path."""
    return re.sub(rf"(?<![\w./-]){OUT}(?=[/\s]|$)", lambda _: folder, words)


def in_terminal(lines: dict[str, str], folder: str) -> str:
    """The four lines for a terminal; `folder`: of the results."""
    width = max(map(len, LINES.values()))
    return "\n".join(f"{name:{width}}  {placed(lines[key], shlex.quote(folder))}" for key, name in LINES.items())
