"""The answer of a study in four lines, the same in the terminal, on the page and in report.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.report.data import listed

if TYPE_CHECKING:
    from understudy.report.sections.opening import Verdict

OUT = "OUT"  # stands for the folder of the results, which a report does not know
LINES = {"useful": "useful?", "copies": "copies?", "release": "may it be released?", "next": "next"}
_RELEASE = {  # kind of `may_be_released`: words, of one generator and of several
    "yes": "nothing that was measured speaks against it; who owns the data decides",
    "copies_found": "no, copies of patients were found",
    "cannot_tell": "no, the search for copies cannot tell",
    "not_audited": "no, copies were not searched for",
    "withheld": "no, it holds copies of patients on whom segmenters were selected or tested",
    "useless": "no copy was found, but nothing shows that the slices are of use",
}


_COPIES = {
    "copies_found": "copies of patients were found", "no_sign": "no sign of copies", "cannot_tell": "cannot tell",
    "not_audited": "not searched for", "no_slices": "there are no slices",
}  # fmt: skip


def may_be_released(verdict: Verdict) -> str:
    """A key of `_RELEASE`; "" for a generator that made no slices."""
    if verdict.copy.kind == "no_slices":
        return ""
    if verdict.copy.kind != "no_sign":
        return verdict.copy.kind
    if verdict.useful.kind == "withheld":
        return "withheld"
    return "yes" if verdict.useful.kind in ("can_replace", "helps", "partly") else "useless"


def conclusion(headline: str, verdicts: list[Verdict], command: str) -> dict[str, str]:
    """The four lines by the keys of `LINES`; `verdicts`: the best first, `command`: that runs the study."""
    copies: dict[str, list[str]] = {}
    release: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kind = "copies_found" if verdict.useful.kind == "withheld" else verdict.copy.kind
        copies.setdefault(_COPIES[kind], []).append(verdict.name)
        release.setdefault(may_be_released(verdict), []).append(verdict)
    release.pop("", None)
    several = len(verdicts) > 1
    said = {_RELEASE[kind]: [v.name for v in group] for kind, group in release.items()}
    return {
        "useful": headline,
        "copies": _grouped(copies, several) or "There are no synthetic slices.",
        "release": _grouped(said, several) or "There is nothing to release.",
        "next": _next(release, command),
    }


def _grouped(said: dict[str, list[str]], several: bool) -> str:
    """E.g. "Diffusion and StyleGAN 2: no sign of copies. Progressive GAN: copies found." """
    lines = [f"{listed(names)}: {words[:1].lower()}{words[1:]}." for words, names in said.items()]
    return " ".join(lines) if several else "".join(f"{words[:1].upper()}{words[1:]}." for words in said)


def _next(release: dict[str, list[Verdict]], command: str) -> str:
    """The command that comes next."""
    best = {kind: group[0].generator for kind, group in release.items()}
    if name := best.get("yes"):
        return (
            f"understudy release slices --study {OUT} --generator {name} --about forms/about.yaml --decision"
            f" forms/decision.yaml --out {name}-release (the forms: understudy release template forms)"
        )
    if name := best.get("copies_found"):
        folders = f"{OUT}/synthetic/{name} --audit {OUT}/audits/{name} --training {OUT}/real"
        return f"understudy screen {folders} --out {name}-screened (takes the copies out and audits the rest)"
    if name := best.get("not_audited"):
        folders = f"--training {OUT}/real --synthetic {OUT}/synthetic/{name}"
        return f"understudy audit {folders} --out {name}-audit"
    if "cannot_tell" in best:
        return f"{command} (after what the search for copies asks for: see the section on copies)"
    if "withheld" in best:
        return f"{command} (after making the slices again without validation and test patients)"
    return f"{command} (after a longer training, or one on more patients)"


def in_terminal(lines: dict[str, str], folder: str) -> str:
    """The four lines for a terminal; `folder`: of the results."""
    width = max(map(len, LINES.values()))
    return "\n".join(f"{name:{width}}  {lines[key].replace(OUT, folder)}" for key, name in LINES.items())
