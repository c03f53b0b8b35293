"""The result of a reading study: sentences, Table 6, a page, and the file that a study's report shows."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy import names
from understudy.io.files import plain, write_json, write_text
from understudy.report.tables import Table, latex

percent = partial(names.percent, digits=1)


def _number(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}".replace("-", "−")


_signed = partial(_number, form="+.2f")


def _points(value: float) -> str:
    return _number(100 * value, "+.1f")


def _between(entry: dict[str, Any], how: Callable[[float], str]) -> str:
    """ "value (low to high)"."""
    return f"{how(entry['value'])} ({how(entry['low'])} to {how(entry['high'])})"


def table6(result: dict[str, Any]) -> Table:
    """The paper's Table 6: how many of each were called real and synthetic."""
    body = [
        [r["source"], str(r["called_real"]), str(r["called_synthetic"]), percent(r["rate"]),
         f"{percent(r['low'])} to {percent(r['high'])}",
         _between(r["difference"], _points) if "difference" in r else ""]
        for r in result["rows"]
    ]  # fmt: skip
    note = (
        f"Intervals of {100 * result['level']:g} %: {result['method']}. The difference: real slices minus the"
        " generator's, in points; 0 where readers cannot tell them."
    )
    header = ["Source", "Called real", "Called synthetic", "Called real, %", "Interval", "Real less this, points"]
    frame = pd.json_normalize(result["rows"], sep="_")
    return Table("table6", "Table 6: slices called real and synthetic", note, header, body, frame)


def readers_table(result: dict[str, Any]) -> Table:
    """One row a reader: how many were read, accuracy, d', criterion, AUC, own repeats, time."""
    body = [
        [name, f"{r['read']}", _between(r["accuracy"], percent), _between(r["d_prime"], _signed),
         _between(r["criterion"], _signed), _between(result["auc"]["readers"][name], _number),
         _number(r["intra_kappa"]), f"{r['seconds_median']:.1f} s", f"{r['hours']:.1f} h"]
        for name, r in result["readers"].items()
    ]  # fmt: skip
    header = ["Reader", "Cases", "Accuracy", "d'", "Criterion", "AUC of confidence", "Own repeats, kappa"]
    header += ["Median time", "In all"]
    note = 'd\': 0 cannot tell; criterion: below 0 leans to "synthetic"; AUC: 0.5 cannot tell, 1 tells always.'
    return Table("readers", "Readers", note, header, body, pd.DataFrame(body, columns=header))


def sentences(result: dict[str, Any]) -> list[str]:
    """What was found and what may be concluded, for people."""
    if result.get("kind") == "segmentations":
        return _of_segmentations(result)
    d, e = result["difference"], result["equivalence"]
    real, made = result["called_real"]["real"], result["called_real"]["synthetic"]
    found = [
        f"Real slices were called real in {percent(real['value'])} ({real['count']} of {real['n']}), synthetic ones in"
        f" {percent(made['value'])} ({made['count']} of {made['n']}): a difference of {_points(d['value'])} points,"
        f" {100 * result['level']:g} % interval {_points(d['low'])} to {_points(d['high'])} ({d['method']}).",
        f"With a margin of {100 * e['margin']:g} points, {'set before' if 'key_sha256' in result else 'chosen after'}"
        f" reading, the two are {'equivalent' if e['holds'] else 'not shown to be equivalent'} (90 %"
        f" interval {_points(e['low'])} to {_points(e['high'])}).",
        f"Sensitivity to synthetic slices: d' {_between(result['d_prime'], _signed)} (0: cannot tell), criterion"
        f" {_between(result['criterion'], _signed)}; {percent(result['called_synthetic'])} of all were called"
        f" synthetic, accuracy {percent(result['accuracy']['value'])}, balanced"
        f" {percent(result['balanced_accuracy'])}.",
    ]
    lean = result["criterion"]["value"]
    if abs(lean) > 0.5:
        found.append(
            f'Readers leaned to "{"synthetic" if lean < 0 else "real"}" whatever they saw, so accuracy alone says'
            " little here: look at d' and AUC."
        )
    if "auc" in result:
        found += [
            f"{reader}: AUC of confidence {_between(a, _number)}, {r['read']} cases, median {r['seconds_median']:.1f} s"
            f" a case, agreement with own repeats kappa {_number(r['intra_kappa'])}."
            for (reader, a), r in zip(result["auc"]["readers"].items(), result["readers"].values(), strict=True)
        ]
        short = [name for name, r in result["readers"].items() if r["answered"] < result["items"]]
        if short:
            found.append(f"Not finished: {', '.join(short)} (of {result['items']} items). Unread items are left out.")
    if result.get("agreement"):
        a = result["agreement"]
        pairs = ", ".join(f"{pair} {_number(kappa)}" for pair, kappa in a["cohen_kappa"].items())
        found.append(
            f"Agreement of the readers: Fleiss' kappa {_number(a['fleiss_kappa'])} on {a['cases']} cases"
            f" (Cohen's: {pairs})."
        )
    return found


def _of_segmentations(result: dict[str, Any]) -> list[str]:
    one, two = result["pair"]
    preferred, share, marks = result["preferred"], result["first_by_patient"], result["marks"]
    d = marks["difference"]
    return [
        f"{result['answers']} comparisons of {result['patients']} patients by {result['readers']} readers: {one} was"
        f" preferred {preferred.get(one, 0)} times, {two} {preferred.get(two, 0)} times, neither"
        f" {preferred.get('same', 0)} times.",
        f"By patient, {one} is preferred in {_between(share, percent).removesuffix(')')}; no difference counts half).",
        f"Marks from 1 to 5: {one} {marks[one]:.2f}, {two} {marks[two]:.2f}; difference {d['value']:+.2f}"
        f" ({d['low']:+.2f} to {d['high']:+.2f}).",
    ]


def write_result(result: dict[str, Any], out: Path) -> None:
    """Writes reading.json, reading.md, reading.html and, for real or synthetic, Table 6 as csv, tex and json."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "reading.json", plain(result))
    found = sentences(result)
    write_text(out / "reading.md", "".join(f"- {line}\n" for line in found))
    tables = []
    if "rows" in result:
        table, readers = table6(result), result.get("readers", {})
        tables = [table, *([readers_table(result)] if readers else [])]
        write_text(out / "table6.csv", table.frame.to_csv(index=False))
        write_text(out / "table6.tex", latex(table))
        rows = table.frame[["source", "n", "called_real", "called_synthetic"]].to_dict("records")
        short = {"rows": rows, "readers": max(1, len(readers)), "design": result.get("design", "")}
        write_json(out / "table6.json", short)
    comments = [[c["reader"], c["source"], c["call"], c["comment"]] for c in result.get("comments", [])]
    environment = Environment(loader=PackageLoader("understudy.reading"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("result.html.j2").render(
        title=result.get("title") or "Reading study", sentences=found, tables=tables, comments=comments, result=result
    )
    write_text(out / "reading.html", page)
