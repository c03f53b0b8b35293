"""Usefulness against copies: which points there are, which one is recommended, and that release proposes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from understudy.io.files import write_json
from understudy.report.conclusion import recommended
from understudy.report.content import Content, Section, make_content
from understudy.report.data import ReportData
from understudy.report.sections import frontier, opening
from understudy.report.sections.frontier import points, section

CLASSES = ("ET", "ED")
TRAINING = {"kimg": 120.0}
GENERATORS: dict[str, Any] = {
    "diffusion": {"model": {"kind": "diffusion"}, "training": TRAINING},
    **{
        f"diffusion-{kimg}kimg": {"training": TRAINING, "snapshot": {"of": "diffusion", "kimg": kimg}}
        for kimg in (30, 60)
    },
    "stylegan2": {"training": {"kimg": 100.0}},
}
DICE = {"real": 0.8, "diffusion": 0.79, "diffusion-30kimg": 0.6, "diffusion-60kimg": 0.78, "stylegan2": 0.7}


def rows(dice: dict[str, float]) -> pd.DataFrame:
    found = []
    for name, mean in dice.items():
        training, generator = ("real", "") if name == "real" else ("synthetic", name)
        setting = f"{training}{f'-{generator}' if generator else ''}.unet.aug"
        for n in range(10):
            tp = round(1000 * (mean + 0.01 * (n % 3 - 1)))
            known = {"setting": setting, "training": training, "generator": generator, "segmenter": "unet"}
            known |= {"augmentation": True, "repeat": 0, "subject": f"P{n}", "site": "A", "scope": "whole"}
            known |= {"region": False, "collapsed": False, "tp": tp, "fp": 1000 - tp, "fn": 1000 - tp}
            known |= {"truth_voxels": 1000, "predicted_voxels": 1000, "truth_empty": False, "predicted_empty": False}
            known |= {"diagonal_mm": 300.0} | dict.fromkeys(("hd", "hd95_pooled", "hd95_directed", "hd95_surfel"), 5.0)
            found += [{**known, "class_name": c} for c in (*CLASSES, "foreground")]
    return pd.DataFrame(found)


def audit(kind: str, excess: float, auc: float | None = None, low: float = 0.4, **more: Any) -> dict[str, Any]:
    flags = {"count": 5, "judged": 100, "rate": 0.01 + excess, "low": 0.0, "high": 0.2, "excess": excess}
    member = {"auc": auc, "low": low, "high": 0.9, "training_patients": 20, "heldout_patients": 12}
    return {
        "verdict": {"kind": kind, "headline": "Said.", "sentences": [], "limits": []},
        "flags": flags | {"excess_low": excess - 0.01, "excess_high": excess + 0.01},
        "controls": {"detection": [{"must": True, "rate": 1.0}], "false_alarms": {"rate": 0.01, "nominal": 0.01}},
        "membership": None if auc is None else member,
        **more,
    }


AUDITS = {
    "diffusion": audit("copies_found", 0.4, 0.9, 0.8),
    "diffusion-30kimg": audit("no_sign", 0.0, 0.5),
    "diffusion-60kimg": audit("no_sign", 0.002, 0.7, 0.6),
    "stylegan2": audit("no_sign", -0.004),
}


def content(tmp_path: Path, audits: dict[str, dict[str, Any]] = AUDITS, **dice: float) -> Content:
    for name, numbers in audits.items():
        write_json(tmp_path / name / "audit.json", numbers)
    folders = {name: tmp_path / name for name in audits}
    return make_content(
        ReportData("t", {"generators": GENERATORS}, rows({**DICE, **dice}), audits=folders, baseline="real.unet.aug")
    )


def made(found: Content) -> Section:
    part = section(found)
    assert part is not None
    return part


def test_points_are_lines_of_snapshots_by_images_shown(tmp_path: Path) -> None:
    found = points(content(tmp_path))
    assert [(p.run, p.kimg) for p in found] == [
        ("diffusion", 30), ("diffusion", 60), ("diffusion", 120), ("stylegan2", 100),
    ]  # fmt: skip
    assert found[2].risks["slices"] == pytest.approx((0.4, 0.39, 0.41))
    assert found[2].risks["weights"] == (0.9, 0.8, 0.9)
    assert set(found[3].risks) == {"slices"}  # its weights were not tested
    assert found[1].dice[0] == pytest.approx(0.78 / 0.8, abs=0.01)


def test_the_most_useful_without_a_sign_is_recommended_and_of_weights_one_that_does_not_tell(tmp_path: Path) -> None:
    found = content(tmp_path)
    part = made(found)
    assert opening.section(found).numbers["recommended"] == {
        "slices": "diffusion-60kimg",
        "weights": "diffusion-30kimg",
    }
    (table,) = part.every_table
    assert list(table.frame["recommended"]) == ["weights", "slices", "", ""]
    assert table.body[1][:2] == ["Diffusion", "60,000"]
    assert [p.key for p in part.every_panel] == ["frontier_slices", "frontier_weights"]


def test_what_the_page_says_next_is_the_recommended_one(tmp_path: Path) -> None:
    """Also where a more useful one has the better rank, but copies."""
    found = content(tmp_path)
    assert found.verdicts[0].generator == "diffusion"  # of rank 1
    lines = opening.section(found).numbers["answer"]["conclusion"]
    assert "--generator diffusion-60kimg " in lines["next"]


def test_exposed_patients_have_a_panel_where_the_audit_counts_them(tmp_path: Path) -> None:
    audits = {**AUDITS, "stylegan2": audit("no_sign", 0.0, exposed={"count": 2, "of": 20})}
    found = content(tmp_path, audits)
    assert [p.key for p in made(found).every_panel] == ["frontier_slices", "frontier_exposed", "frontier_weights"]
    assert points(found)[3].risks["exposed"][0] == 2


def test_none_is_recommended_where_every_audit_shows_a_sign(tmp_path: Path) -> None:
    kinds = dict(zip(AUDITS, ("copies_found", "cannot_tell", "cannot_tell", "copies_found"), strict=True))
    found = content(tmp_path, {name: audit(kind, 0.1, 0.5) for name, kind in kinds.items()})
    assert recommended(found.verdicts) is None
    assert opening.section(found).numbers["recommended"] == {"slices": None, "weights": None}


def test_the_most_useful_that_is_of_no_use_is_marked_but_not_released(tmp_path: Path) -> None:
    audits = {**AUDITS, "diffusion-60kimg": AUDITS["diffusion"]}
    found = content(tmp_path, audits, stylegan2=0.5)
    chosen = recommended(found.verdicts)
    assert chosen is not None
    assert chosen.generator == "diffusion-30kimg"  # 75 % of the real Dice
    assert "understudy release" not in str(made(found).blocks[0])
    assert "Useful? No: cannot replace" in str(made(found).blocks[0])
    assert "understudy release" not in opening.section(found).numbers["answer"]["conclusion"]["next"]


def test_one_generator_has_no_frontier(tmp_path: Path) -> None:
    assert section(content(tmp_path, {"stylegan2": AUDITS["stylegan2"]})) is None
    assert frontier.points(content(tmp_path, {})) == []
