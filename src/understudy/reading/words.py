"""The result of a reading study in words, as Table 6, and as the file that a study's report shows."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.files import write_json, write_text
from understudy.report.data import plain
from understudy.report.latex import latex
from understudy.report.table import Table


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def table6(result: dict[str, Any]) -> Table:
    """The paper's Table 6: how many of each were called real and synthetic."""
    rows = result["rows"]
    body = [
        [r["source"], str(r["called_real"]), str(r["called_synthetic"]), percent(r["rate"]),
         f"{percent(r['low'])} to {percent(r['high'])}"]
        for r in rows
    ]  # fmt: skip
    return Table(
        "table6", "Slices called real and synthetic by readers",
        f"Intervals of {result['level']:.0%}: {result['method']}.",
        ["Source", "Called real", "Called synthetic", "Called real, %", "Interval"], body, pd.DataFrame(rows),
    )  # fmt: skip


def sentences(result: dict[str, Any]) -> list[str]:
    """What was found and what it allows to say, for people."""
    if result.get("kind") == "segmentations":
        return _of_segmentations(result)
    d, e = result["difference"], result["equivalence"]
    real, made = result["called_real"]["real"], result["called_real"]["synthetic"]
    found = [
        f"Real slices were called real in {percent(real['value'])} ({real['count']} of {real['n']}), synthetic ones in"
        f" {percent(made['value'])} ({made['count']} of {made['n']}): a difference of {_points(d['value'])} points,"
        f" {result['level']:.0%} interval {_points(d['low'])} to {_points(d['high'])} ({d['method']}).",
        f"With the margin of {100 * e['margin']:.0f} points set before reading, the two are"
        f" {'equivalent' if e['holds'] else 'not shown to be equivalent'} (90 % interval {_points(e['low'])} to"
        f" {_points(e['high'])}).",
        f"Sensitivity to synthetic slices: d' {result['d_prime']:+.2f} (0: cannot tell), criterion"
        f" {result['criterion']:+.2f}; {percent(result['called_synthetic'])} of all were called synthetic, accuracy"
        f" {percent(result['accuracy']['value'])}, balanced {percent(result['balanced_accuracy'])}.",
    ]
    if abs(result["criterion"]) > 0.5:
        word = "synthetic" if result["criterion"] < 0 else "real"
        found.append(
            f'Readers leaned to "{word}" whatever they saw, so accuracy alone says little here: look at d\' and AUC.'
        )
    if "auc" in result:
        found += [
            f"{reader}: AUC of confidence {a['value']:.2f} ({a['low']:.2f} to {a['high']:.2f}), {r['read']} cases,"
            f" median {r['seconds_median']:.1f} s a case, agreement with own repeats kappa"
            f" {_number(r['intra_kappa'])}."
            for (reader, a), r in zip(
                result["auc"]["readers"].items(), result["readers"].values(), strict=True
            )
        ]
    if result.get("agreement"):
        a = result["agreement"]
        found.append(
            f"Agreement of the readers: Fleiss' kappa {_number(a['fleiss_kappa'])} on {a['cases']} cases."
        )
    return found


def _of_segmentations(result: dict[str, Any]) -> list[str]:
    one, two = result["pair"]
    share, marks = result["first_by_patient"], result["marks"]
    d = marks["difference"]
    return [
        f"{result['answers']} comparisons of {result['patients']} patients by {result['readers']} readers: {one} was"
        f" preferred {result['preferred'].get(one, 0)} times, {two} {result['preferred'].get(two, 0)} times, neither"
        f" {result['preferred'].get('same', 0)} times.",
        f"By patient, {one} is preferred in {percent(share['value'])} ({percent(share['low'])} to"
        f" {percent(share['high'])}; no difference counts half).",
        f"Marks from 1 to 5: {one} {marks[one]:.2f}, {two} {marks[two]:.2f}; difference {d['value']:+.2f}"
        f" ({d['low']:+.2f} to {d['high']:+.2f}).",
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def write_result(result: dict[str, Any], out: Path) -> None:
    """Writes reading.json, reading.md, reading.html and, for real or synthetic, Table 6 as csv, tex and json.

    Raises:
        UnderstudyError: no permission, disk full.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "reading.json", plain(result))
    said = sentences(result)
    write_text(out / "reading.md", "".join(f"- {line}\n" for line in said))
    rows = ""
    if "rows" in result:
        table = table6(result)
        table.frame.to_csv(out / "table6.csv", index=False)
        write_text(out / "table6.tex", latex(table))
        readers = result["readers"] if isinstance(result.get("readers"), dict) else {"": {}}
        keys = ("source", "n", "called_real", "called_synthetic")
        short = [{key: row[key] for key in keys} for row in result["rows"]]
        write_json(
            out / "table6.json", {"rows": short, "readers": len(readers), "design": result.get("design", "")}
        )
        cells = [table.header, *table.body]
        rows = "<table>" + "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells
        ) + "</table>"  # fmt: skip
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0}"
    )
    head = f"<title>Reading study</title><style>{style}</style><h1>Reading study</h1>"
    body = "".join(f"<p>{html.escape(line)}</p>" for line in said)
    page = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    write_text(
        out / "reading.html",
        f"{page}{head}{body}{rows}",
    )
