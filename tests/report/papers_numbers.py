"""A made-up study of 44 settings whose Dice scores are those that the paper prints."""

from __future__ import annotations

from typing import Any

import pandas as pd

from understudy.report.published import DICE, HAUSDORFF, published

CLASSES = ("ET", "ED", "NCR/NET")
GENERATORS = ("progan", "stylegan1", "stylegan2", "stylegan3", "diffusion")
STUDY: dict[str, Any] = {
    "report": {"published": "brats2020"},
    "generators": {
        f"my {g}": {"model": {"kind": g}, "training": {"batch": 8, "kimg": 100.0}} for g in GENERATORS
    },
    "segmenters": {"net": {"model": {"kind": "unet"}}, "swin": {"model": {}}},
}  # fmt: skip


def rows_of_the_paper(dataset: str = "brats2020") -> pd.DataFrame:
    """Rows of 44 settings whose Dice per class and maximum Hausdorff distance are the paper's of a data set.

    Tables 3 and 8, or 4 and 9; one training, two patients alike. The one distance that cannot be read there is 50 mm.
    """
    key = ["segmenter", "original", "augmentation", "generator", "class"]
    distances = published(HAUSDORFF[dataset]).set_index(key)["value"].fillna(50.0)
    rows: list[dict[str, Any]] = []
    for r in published(DICE[dataset]).to_dict(orient="records"):
        if r["class"] == "mean":
            continue
        generator = f"my {r['generator']}" if r["generator"] else ""
        training = "both" if r["original"] and generator else "synthetic" if generator else "real"
        network = "net" if r["segmenter"] == "unet" else "swin"
        far = distances[tuple(r[k] for k in key)]
        tp = round(1000 * r["value"])
        for subject in ("P1", "P2"):
            for scope in ("kept_slices",):
                rows.append(
                    {"setting": f"{training}-{generator}.{network}.{r['augmentation']}", "training": training,
                     "generator": generator, "segmenter": network, "augmentation": r["augmentation"], "repeat": 0,
                     "subject": subject, "site": "A", "class_name": r["class"], "scope": scope, "region": False,
                     "collapsed": False, "tp": tp, "fp": 1000 - tp, "fn": 1000 - tp, "truth_voxels": 1000,
                     "predicted_voxels": 1000, "truth_empty": False, "predicted_empty": False, "hd": far,
                     "hd95_pooled": 5.0, "hd95_directed": 5.0, "hd95_surfel": 5.0, "diagonal_mm": 300.0}
                )  # fmt: skip
    return pd.DataFrame(rows)
