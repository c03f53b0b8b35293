"""Tables for a paper: LaTeX with booktabs, mean ± sd as the paper prints them."""

from __future__ import annotations

import unicodedata

from understudy.report.tables.base import Table

LONG = 45  # rows that fit on a page
SMALL = 8  # columns from which the letters are smaller
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "[": "{[}", "]": "{]}", "\n": " ",
    "±": r"$\pm$", "✓": r"$\checkmark$", "−": r"$-$", "∞": r"$\infty$", "×": r"$\times$", "–": "--", "\u00a0": "~",
    "“": "``", "”": "''", "’": "'", "·": r"$\cdot$", "…": r"\dots{}",
    "→": r"$\to$", "≥": r"$\geq$", "≤": r"$\leq$", "γ": r"$\gamma$", "ρ": r"$\rho$", "τ": r"$\tau$", "σ": r"$\sigma$",
    "μ": r"$\mu$", "µ": r"$\mu$", "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "κ": r"$\kappa$",
    "\u202f": r"\,",
}  # fmt: skip


def latex(table: Table) -> str:
    """The table as a LaTeX float, or over several pages if it is long.

    Needs the packages booktabs, amssymb (for ticks) and, where it is long, longtable; its first line says which.
    """

    def row(cells: list[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    long = len(table.body) > LONG
    columns = "l" * table.row_headers + "r" * (len(table.header) - table.row_headers)
    words = f"{table.caption}. {table.note}" if table.note else f"{table.caption}."
    caption = rf"\caption{{{escaped(words)}}}"
    label = rf"\label{{tab:{table.key.replace('_', '-')}}}"
    size = r"\footnotesize\setlength{\tabcolsep}{3pt}" if len(table.header) > SMALL else r"\small"
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
        return "".join(SPECIAL.get(c, c) for c in plain) or "?"

    return "".join(SPECIAL.get(c, c if ord(c) < 0x100 else nearest(c)) for c in text)
