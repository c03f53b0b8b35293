"""The result of a reading study as a page: what was found, Table 6, the readers, what they wrote, what it rests on."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from understudy.report.tables.base import Table

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{line-height:1.2}h2{margin:2rem 0 .5rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem 1rem .3rem 0;text-align:right;white-space:nowrap;border-top:1px solid #8886}
thead th{border-top:0;vertical-align:bottom}
th:first-child,td:first-child,.words td{text-align:left}
.words td{white-space:normal;vertical-align:top}
.note{font-size:.9rem}
code{font-size:.85rem}
"""


def result_page(
    title: str, said: Sequence[str], tables: Sequence[Table], comments: Sequence[dict[str, Any]], bound: str
) -> str:
    """A page that needs no other file.

    Args:
        said: sentences, the most important first.
        comments: reader, source, call and comment.
        bound: what the result depends on: hashes of key and answers.
    """
    parts = [f"<h1>{_text(title)}</h1>", *(f"<p>{_text(line)}</p>" for line in said)]
    parts += [_table(table) for table in tables]
    if comments:
        header = ["Reader", "Shown", "Said", "Comment"]
        body = [[c["reader"], c["source"], c["call"], c["comment"]] for c in comments]
        parts += ["<h2>What readers wrote</h2>", _grid(header, body, "words")]
    parts.append(f'<p class="note">{_text(bound)}</p>')
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"{head}<title>{_text(title)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"


def _table(table: Table) -> str:
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return f"<h2>{_text(table.caption)}</h2>{_grid(table.header, table.body)}{note}"


def _grid(header: Sequence[str], body: Sequence[Sequence[str]], kind: str = "") -> str:
    top = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in header)
    rows = "".join(
        "<tr>"
        + f'<th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def _text(words: str) -> str:
    return html.escape(str(words))
