"""Tables for a paper: LaTeX with booktabs, mean ± sd as the paper prints them."""

from __future__ import annotations

from understudy.report.table import Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "[": "{[}", "]": "{]}", "\n": " ",
    "±": r"$\pm$", "✓": r"$\checkmark$", "−": r"$-$", "∞": r"$\infty$", "×": r"$\times$", "–": "--", "\u00a0": "~",
    "“": "``", "”": "''", "’": "'", "·": r"$\cdot$", "…": r"\dots{}",
}  # fmt: skip


def latex(table: Table) -> str:
    """The table as a LaTeX float. Needs `\\usepackage{booktabs}` and, for the ticks, `\\usepackage{amssymb}`."""
    columns = "l" * table.row_headers + "r" * (len(table.header) - table.row_headers)
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{amssymb}",
        r"\begin{table}",
        rf"  \caption{{{escaped(_sentence(table.caption, table.note))}}}",
        rf"  \label{{tab:{table.key.replace('_', '-')}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_row(table.header)}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in table.body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _row(cells: list[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def _sentence(caption: str, note: str) -> str:
    return f"{caption}. {note}" if note else f"{caption}."
