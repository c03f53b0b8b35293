"""The paper's own numbers beside ours: which of its columns belongs to a study, and which of its rows to a setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from understudy.report.data import ReportData, Setting, kind_of
from understudy.report.published import DICE, HAUSDORFF, published

COHORTS = {"brats2020": "BraTS 2020", "brats2021": "BraTS 2021"}


def dataset_of(data: ReportData) -> str:
    """ "brats2020" or "brats2021" if the study file says that its cohort is the paper's, else ""."""
    report = data.study.get("report") if isinstance(data.study, dict) else None
    named = report.get("published") if isinstance(report, Mapping) else None
    return str(named) if named in COHORTS else ""


def numbers_of_paper(data: ReportData, metric: str) -> dict[tuple[Any, ...], float]:
    """(segmenter kind, original, augmentation, generator kind, class) -> value; {} if nothing is to be compared.

    Args:
        metric: "dice" (Tables 3 and 4) or "hd" (Tables 8 and 9).
    """
    dataset = dataset_of(data)
    if not dataset:
        return {}
    frame = published({"dice": DICE, "hd": HAUSDORFF}[metric][dataset])
    keys = frame[["segmenter", "original", "augmentation", "generator", "class"]].itertuples(index=False, name=None)
    return {(*k[:4], str(k[4]).lower()): float(v) for k, v in zip(keys, frame["value"], strict=True) if pd.notna(v)}


def relative_of_paper(data: ReportData) -> dict[tuple[Any, ...], float]:
    """(segmenter kind, original, augmentation, generator kind) -> relative Dice as a fraction, of Table 5."""
    dataset = dataset_of(data)
    frame = published(5)
    frame = frame[frame["dataset"] == dataset]
    keys = frame[["segmenter", "original", "augmentation", "generator"]].itertuples(index=False, name=None)
    return {tuple(k): float(v) / 100 for k, v in zip(keys, frame["percent"], strict=True)}


def row_of_paper(data: ReportData, setting: Setting) -> tuple[Any, ...]:
    """The paper's row of a setting: segmenter kind, original slices used, augmentation, generator kind."""
    generator = kind_of(data.study, "generators", setting.generator) if setting.generator else ""
    segmenter = kind_of(data.study, "segmenters", setting.segmenter)
    return segmenter, setting.training in ("real", "both"), setting.augmentation, generator


def published_ranks(dataset: str) -> dict[tuple[str, str], int]:
    """(column of Table 1, generator kind) -> rank that follows from the paper's Tables 2, 3, 4, 8 and 9.

    Table 1 is a picture; columns are "fid", "is", and "dice" or "hd", segmenter and "aug" or "noaug" with blanks
    between. Ties share the lower number.
    """
    quality = published(2)
    quality = quality[quality["dataset"] == dataset].set_index("generator")
    columns = {"fid": quality["fid"], "is": -quality["is"]}
    for metric, tables, sign in (("dice", DICE, -1.0), ("hd", HAUSDORFF, 1.0)):
        frame = published(tables[dataset])
        frame = frame[~frame["original"] & (frame["class"] == "mean")]
        for (segmenter, augmented), rows in frame.groupby(["segmenter", "augmentation"]):
            name = f"{metric} {segmenter} {'aug' if augmented else 'noaug'}"
            columns[name] = sign * rows.set_index("generator")["value"]
    return {
        (column, str(kind)): int(rank)
        for column, values in columns.items()
        for kind, rank in values.rank(method="min").items()
    }
