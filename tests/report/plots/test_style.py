"""Plots: valid, self-contained, the same every time, and robust to holes in a history."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from understudy.report.plots.style import MOST_POINTS, Panel, thinned
from understudy.report.sections.annotations import distribution
from understudy.report.sections.training import generator_curves


def svg(panel: Panel) -> str:
    head, content = panel.src.split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def history(path: Path, lines: list[dict[str, float | None]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_skip_what_is_not_a_number(tmp_path: Path) -> None:
    lines: list[dict[str, float | None]] = [{"kimg": float(k), "loss_g": 1.0, "loss_d": None} for k in range(5)]
    panels = generator_curves("gan", history(tmp_path / "h.jsonl", lines), {"lesion": 0.3})
    (panel,) = panels
    assert "generator ends at 1" in panel.alt
    assert "discriminator" not in panel.alt


def test_shares_of_classes_stand_beside_the_real_ones(tmp_path: Path) -> None:
    path = history(tmp_path / "h.jsonl", [{"kimg": 1.0, "share_lesion": 0.2}, {"kimg": 2.0, "share_lesion": 0.4}])
    (panel,) = generator_curves("gan", path, {"lesion": 0.3})
    assert "lesion ends at 0.4" in panel.alt
    assert svg(panel).count("stroke-dasharray") >= 1


def test_no_history_no_panel(tmp_path: Path) -> None:
    assert generator_curves("gan", tmp_path / "none.jsonl", {}) == []


def test_plots_are_self_contained_and_repeatable() -> None:
    values = {"real": np.array([1.0, 2.0, 30.0]), "gan": np.array([2.0, 3.0])}
    kinds = {"real": "real", "gan": "synthetic"}
    (first,), (second,) = (distribution("Area", "%", values, kinds) for _ in range(2))
    assert first == second
    assert "median 2 (real)" in first.alt
    text = svg(first)
    ElementTree.fromstring(text)
    assert "DejaVu" not in text  # the page's own fonts
    assert "<image" not in text
    assert "Area" in text  # text that can be searched and read aloud


def test_nothing_to_distribute() -> None:
    assert distribution("Area", "%", {"real": np.array([])}, {"real": "real"}) == []


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    x, y = thinned(np.arange(5000.0), np.arange(5000.0) ** 2)
    assert len(x) <= MOST_POINTS + 1
    assert (x[0], x[-1], y[-1]) == (0, 4999, 4999.0**2)
