"""Reporting sheets that journals and regulators ask for, filled in with what a study knows and empty where it does not.

A sheet is a CSV file: a spreadsheet opens it by a double click, each item is a row that the author edits, and it can be
compared line by line with an earlier one. No row holds the id of a patient.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from understudy.errors import UnderstudyError
from understudy.exchange.export import new_folder
from understudy.io.files import read_json
from understudy.names import display_name, percent
from understudy.quality.metrics import label_of
from understudy.report.data import between, count, listed, number
from understudy.report.references import bibtex
from understudy.slices import SliceSet

HEADER = ("item", "part", "what it asks", "known from the study (edit)", "page")
SCORES = {
    "dice": "Dice coefficient", "hd": "Hausdorff distance", "hd95_directed": "95 % Hausdorff distance (directed)",
    "hd95_pooled": "95 % Hausdorff distance (pooled)", "hd95_surfel": "95 % Hausdorff distance (area-weighted)",
}  # fmt: skip
SETTINGS = "all settings stand in study.json"


def write_sheets(results: Path, out: Path) -> list[Path]:
    """Writes a CSV file for each sheet and `references.bib`; returns their paths.

    Args:
        results: folder with a study's report.json (of several cohorts: that of one).
        out: new folder.

    Raises:
        UnderstudyError: there is no report, or `out` is there: what somebody edited is not written over.
    """
    if not (results / "report.json").is_file():
        fix = "give the folder of a finished study, or of one of its cohorts (understudy run, understudy report)"
        raise UnderstudyError("there is no report to fill the sheets from", where=results, fix=fix)
    report = read_json(results / "report.json")
    if "provenance" not in report:  # the overview above several cohorts
        fix = f"give the folder of one of the cohorts in {results}"
        raise UnderstudyError("this is the overview of several cohorts", where=results, fix=fix)
    saved = next((f / "study.json" for f in (results, results.parent) if (f / "study.json").is_file()), None)
    study = read_json(saved)["study"] if saved is not None else report["study"]
    slices = SliceSet.open(results / "real", cache_bytes=0) if (results / "real").exists() else None
    facts = {**_data(report, study, slices), **_models(report, study), **_results(report)}
    with new_folder(out) as folder:
        for name, sheet in definitions().items():
            rows = _rows(sheet, facts, report, slices)
            (folder / f"{name}.csv").write_text(_csv(rows, sheet["source"]), encoding="utf-8-sig", newline="")
        (folder / "references.bib").write_text(bibtex(report, study), encoding="utf-8")
    return sorted(out.iterdir())


def definitions() -> dict[str, Any]:
    """Name of a sheet -> its source and items."""
    text = files("understudy.report").joinpath("published/sheets.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _rows(
    sheet: Mapping[str, Any], facts: Mapping[str, str], report: dict[str, Any], slices: SliceSet | None
) -> list[list[str]]:
    rows = []
    for generator, shown in (
        [(v["generator"], v["name"]) for v in report["verdicts"]] if "each" in sheet else [("", "")]
    ):
        known = _of_set(report, generator, slices) if generator else facts
        for item, part, asks, *fact in sheet["items"]:
            part = f"{shown}: {part}" if shown else part
            rows.append([str(item), part, asks, known[fact[0]] if fact else "", ""])
    return rows


def _csv(rows: list[list[str]], source: str) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([HEADER, *rows, ["", "", f"Items in our words, after: {source.strip()}", "", ""]])
    return text.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def _data(report: dict[str, Any], study: dict[str, Any], slices: SliceSet | None) -> dict[str, str]:
    """About the patients and their slices."""
    phantom, cut, split = study["phantom"], study["slices"], study["split"]
    parts = slices.index.groupby("split")["subject"].nunique().to_dict() if slices is not None else {}
    words = {"train": "training", "val": "validation", "test": "test"}
    counts = ", ".join(f"{parts[part]} {word}" for part, word in words.items() if part in parts)
    flow = f"{count(sum(parts.values()), 'patient')}: {counts}" if parts else ""
    faults = len(report["problems"])
    names = listed([entry.name for entry in slices.classes[1:]]) if slices is not None else ""
    annotated = "Computed with the phantoms. " if phantom else "The annotations that came with the cohort. "
    keep = ", ".join(f"{k} {v}" for k, v in cut.items() if k.startswith(("keep", "rule")) and v is not None)
    strata = ", stratified by site" if split.get("stratify_by_site") else ""
    return {
        "source": f"{phantom['patients']} computed phantoms; no patients" if phantom else "",
        "preprocessing": f"Slices of {cut['resolution']} x {cut['resolution']} pixels; grey values scaled for each"
        f" volume ({cut['scaling']}, percentile {cut['percentile']})",
        "selection": f"Slices: {keep}",
        "missing": f"{count(faults, 'fault')} of the input files; the report lists them and what was done"
        if faults else "No faults of the input files",
        "reference": f"{annotated}Classes: {names}" if names else "",
        "partitions": f"{flow}; method: {split['method']}{strata}" if flow else "",
        "disjoint": "Patients: all scans of a patient are in one partition",
        "flow": flow,
        "internal": f"{count(report['answer']['patients'], 'test patient')} of the same cohort, held out by patient",
    }  # fmt: skip


def _models(report: dict[str, Any], study: dict[str, Any]) -> dict[str, str]:
    """About the networks and their training."""
    made = {v["generator"]: v["name"] for v in report["verdicts"]}
    generators = {name: study["generators"].get(name) or {} for name in made}
    networks = {display_name(name): entry for name, entry in study["segmenters"].items()}
    shown, nets = listed(list(made.values())) or "none", listed(list(networks))
    trained = []
    for name, entry in generators.items():
        how = entry.get("training") or {}
        said = [f"{key} {how[key]:g}" for key in ("kimg", "batch", "lr", "g_lr", "d_lr") if key in how]
        trained += [f"{made[name]}: {', '.join(said)}"] if said else []
    for name, entry in networks.items():
        how, augmented = entry["training"], ", ".join("yes" if a else "no" for a in study["augmentation"])
        said = [f"{key} {how[key]}" for key in ("samples", "batch", "optimiser", "lr")]
        trained.append(f"{name}: {', '.join(said)}; augmentation: {augmented}")
    ensembles = [f"{made[n]}: {e['ensemble']} members" for n, e in generators.items() if e.get("ensemble", 1) > 1]
    software = report["provenance"]["software"]
    return {
        "technique": f"Deep learning: generative models ({shown}) and segmentation networks ({nets})",
        "models": f"Generators: {shown}. Segmentation networks: {nets}; {SETTINGS}",
        "software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "initialisation": f"Seed of the study: {study['seed']}; the seed of every training stands in report.json"
        " (provenance, seeds)",
        "training": "; ".join([*trained, SETTINGS]),
        "final_model": "Segmentation networks: the weights with the best validation score (validation:"
        f" {listed(sorted({e['training']['validation'] for e in networks.values()}))})",
        "ensembles": "; ".join(ensembles) or "None",
        "robustness": f"{count(study['repeats'], 'training')} of every segmentation network with other seeds"
        if study["repeats"] > 1 else "Every segmentation network was trained once",
        "protocol": f"study.json, SHA-256 {report['provenance']['study_hash']}; {report['provenance']['command']}",
        "availability": f"Software: Understudy {report['software_version']} (Apache-2.0). Slices:"
        f" {report['answer']['conclusion']['release']}",
        "aims": "Can synthetic slices replace or complement real slices in the training of a segmentation network, and"
        " are they copies of training patients?",
        "goal": f"Comparison of segmentation networks trained on these kinds of slices: {listed(study['trainings'])}",
    }  # fmt: skip


def _results(report: dict[str, Any]) -> dict[str, str]:
    """What was found."""
    answer, settings = report["answer"], {s["id"]: s["label"] for s in report["settings"]}
    keys = list(dict.fromkeys(row["metric"] for row in report["summary"]))
    scope = "whole" if any(row["scope"] == "whole" for row in report["summary"]) else "kept_slices"
    dice = [
        f"{settings[row['setting']]}: Dice {number(row['value'])} (95 % interval {between(row['low'], row['high'])})"
        for row in report["summary"]
        if (row["metric"], row["class_name"], row["scope"]) == ("dice", report["mean_name"], scope)
    ]
    found = [f"{v['name']}: {' '.join(v['useful']['lines'])}" for v in report["verdicts"] if v["useful"].get("lines")]
    audits = [audit["verdict"] for audit in report["memorization"].values() if audit.get("verdict")]
    limits = dict.fromkeys([*answer["reasons"], *(limit for audit in audits for limit in audit["limits"])])
    return {
        "metrics": "; ".join(SCORES.get(key, key) for key in keys),
        "statistics": "95 % intervals: hierarchical bootstrap over patients and trainings. Differences: sign-flip test"
        " over patients, adjusted by Holm",
        "performance": " ".join([answer["headline"], *(f"{line}." for line in dict.fromkeys(dice))]),
        "comparison": " ".join(found),
        "failures": f"Failed jobs: {len(report['failed'])}. Collapsed trainings of segmentation networks:"
        f" {len(report['collapsed'])}. " + " ".join(s for s in answer["sentences"] if "no voxel" in s),
        "limits": " ".join(limits),
    }


def _of_set(report: dict[str, Any], generator: str, slices: SliceSet | None) -> dict[str, str]:
    """What the scorecard asks of the slices of one generator."""
    measured = partial(_quality, (report["quality"].get(generator) or {}).get("rows", []))
    drawn = next((a for a in report["annotations"] if a.get("generator") == generator), None)
    real = next((a for a in report["annotations"] if a["kind"] == "real"), None)
    health = report["generator_health"].get(generator) or {}
    audit = report["memorization"].get(generator) or {}
    told = [(audit.get("verdict") or {}).get("headline"), (audit.get("membership") or {}).get("words")]
    told += [audit.get("refusal") if isinstance(audit.get("refusal"), str) else None]
    verdict = next(v for v in report["verdicts"] if v["generator"] == generator)
    alone = (verdict["useful"].get("alone") or {}).get("setting")
    sites = [row.get(alone) for row in report["tables"].get("sites") or []]
    dice = sorted(value for value in sites if value is not None)  # without the names, which say where patients were
    has = [f"Real training slices with an annotation: {percent(real['with_annotation'])}"] if real else []
    has = [f"Slices with an annotation: {percent(drawn['with_annotation'])}", *has] if drawn else []
    faults = health.get("faults")
    if faults is not None:
        has.append(f"Faults of the training that the samples show: {', '.join(faults) or 'none'}")
    held = ""
    if drawn and slices is not None:
        held = f"{drawn['slices']:,} slices; each has {listed(list(slices.channels))} and an annotation of"
        held += f" {listed([entry.name for entry in slices.classes[1:]])}. No demographic or clinical data"
    return {
        "congruence": measured(("frechet_distance", "kernel_distance", "precision", "density")),
        "coverage": measured(("recall", "coverage")),
        "constraint": "; ".join(has),
        "completeness": held,
        "compliance": " ".join(filter(None, told)),
        "comprehension": f"study.json, SHA-256 {report['provenance']['study_hash']}, has every setting and the seed;"
        " `understudy release` adds a datasheet with uses and limits",
        "consistency": f"Dice of a network trained on these slices alone: {number(dice[0])} to {number(dice[-1])} over"
        f" {len(dice)} sites" if len(dice) > 1 else "",
    }  # fmt: skip


def _quality(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """The mean over the channels of each metric, and of its floor: what held-out real slices have."""
    said = []
    for key, extractor in dict.fromkeys((row["metric"], row["extractor"]) for row in rows if row["metric"] in keys):
        mine = [r for r in rows if (r["metric"], r["extractor"]) == (key, extractor) and r["value"] is not None]
        if not mine:
            continue
        floors = [row["floor"] for row in mine if row.get("floor") is not None]
        of = label_of(key)
        way = {True: ", more is better", False: ", less is better", None: ""}[of.better]
        floor = f"; held-out real slices {sum(floors) / len(floors):.3g}" if floors else ""
        value = f"{sum(row['value'] for row in mine) / len(mine):.3g}"
        said.append(f"{of.name} ({extractor or 'images'}{way}): {value}{floor}")
    return ". ".join(said)
