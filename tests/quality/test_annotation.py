"""The comparison of annotations: what it finds, its intervals, its floor, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.quality.annotation import Annotations, compare_annotations
from understudy.quality.config import AnnotationConfig
from understudy.slices import LabelClass, SliceSet, SliceWriter

EDGE = 32
NAMES = ("ET", "ED")
QUICK = AnnotationConfig(resamples=200, distance_resamples=20, divisions=60)


def labels_of(rng: np.random.Generator, size: float, shift: int, stray: bool, names: tuple[str, ...]) -> np.ndarray:
    """A square of ET in a larger square of ED near the middle, now and then nothing at all."""
    labels = np.zeros((EDGE, EDGE), np.uint8)
    if rng.random() < 0.3:
        return labels
    half = max(2, round(size + rng.normal(0, 1)))
    y, x = (int(np.clip(EDGE // 2 + shift + rng.integers(-3, 4), half, EDGE - half)) for _ in range(2))
    labels[y - half : y + half, x - half : x + half] = names.index("ED") + 1
    labels[y - half // 2 : y + half // 2, x - half // 2 : x + half // 2] = names.index("ET") + 1
    if stray:
        labels[1, 1] = names.index("ET") + 1
    return labels


def made(
    path: Path, n: int, seed: int, patients: int = 0, size: float = 6, shift: int = 0, stray: bool = False,
    names: tuple[str, ...] = NAMES,
) -> SliceSet:  # fmt: skip
    """Slices of so many patients, 3 in 10 of them for validation; none: synthetic slices. Patients differ in size."""
    rng = np.random.default_rng(seed)
    sizes = size + rng.normal(0, 1, max(1, patients))
    classes = [LabelClass("background", 0, 0), *(LabelClass(c, i + 1, 100 * (i + 1)) for i, c in enumerate(names))]
    labels, rows = [], []
    for i in range(n):
        own = i % patients if patients else 0
        labels.append(labels_of(rng, sizes[own] if patients else size, shift, stray, names))
        row = {"subject": f"p{own}", "split": "train" if own % 10 < 7 else "val"} if patients else {}
        rows.append({"id": str(i), **(row or {"code_distance": float(i % 5)})})
    writer = SliceWriter(path, ("T1w",), classes, EDGE)
    writer.append(np.zeros((n, 1, EDGE, EDGE), np.uint8), np.stack(labels), rows)
    return writer.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return made(tmp_path_factory.mktemp("real") / "set", 600, 0, patients=30)


def distance(found: Annotations, measure: str, name: str) -> float:
    (entry,) = [d for d in found.distances if (d.measure, d.class_name) == (measure, name)]
    return entry.value


def outside(found: Annotations) -> set[tuple[str, str]]:
    return {(d.measure, d.class_name) for d in found.distances if d.outside}


def test_like_slices_are_within_the_floor(real: SliceSet, tmp_path: Path) -> None:
    """Slices of training patients, written as synthetic ones: hardly anything is outside."""
    rows = real.rows(split="train")
    images, labels = real.read(rows)
    writer = SliceWriter(tmp_path / "same", real.channels, real.classes, EDGE)
    writer.append(images, labels, [{"id": str(i)} for i in range(len(rows))])
    found = compare_annotations(writer.close(), real, config=QUICK)
    assert not outside(found)
    assert all(d.value == pytest.approx(0, abs=1e-9) for d in found.distances)
    assert any("codes" in note for note in found.notes)


def test_what_differs_is_outside_and_what_does_not_is_not(real: SliceSet, tmp_path: Path) -> None:
    larger = compare_annotations(made(tmp_path / "larger", 400, 1, size=9), real, config=QUICK)
    assert {("area_wasserstein", "ED"), ("area_ks", "ED"), ("area_wasserstein", "any")} <= outside(larger)
    assert ("share_difference", "ED") not in outside(larger)
    moved = compare_annotations(made(tmp_path / "moved", 400, 1, shift=7), real, config=QUICK)
    assert {("position_variation", "ET"), ("position_variation", "ED")} <= outside(moved)
    assert ("eccentricity_wasserstein", "ED") not in outside(moved)
    spotted = compare_annotations(made(tmp_path / "spotted", 400, 1, stray=True), real, config=QUICK)
    assert {("stray_difference", "ET"), ("components_wasserstein", "ET"), ("border_variation", "ET")} <= outside(
        spotted
    )
    assert distance(spotted, "stray_difference", "ET") == pytest.approx(0.5, abs=1e-9)


def test_values_and_intervals(real: SliceSet, tmp_path: Path) -> None:
    found = compare_annotations(made(tmp_path / "s", 300, 1), real, config=QUICK)
    values = {(v.measure, v.class_name, v.other): v for v in found.values}
    train = real.read(real.rows(split="train"))[1]
    share = values["share", "ED", ""]
    assert share.real == pytest.approx((train == 2).any((1, 2)).mean())
    assert share.real_low < share.real < share.real_high
    assert share.synthetic_low < share.synthetic < share.synthetic_high
    areas = 100 * (train == 2).mean((1, 2))
    median = np.quantile(areas[areas > 0], 0.5, method="inverted_cdf")
    assert values["area_p50", "ED", ""].real == pytest.approx(median)
    assert values["mean_area", "ED", ""].real == pytest.approx(areas[areas > 0].mean())
    touching = [v.real for (m, name, _), v in values.items() if m == "border" and name == "ET"]
    assert touching == pytest.approx([0, 1])  # the background, and ED all around
    assert values["code_distance", "any", ""].synthetic == pytest.approx(2)
    assert values["code_distance_p95", "any", ""].synthetic == pytest.approx(4)
    assert found.patients == {"real": 21, "held-out": 9}
    told = [d for d in found.distances if d.low == d.low]
    assert len(told) > 10
    assert all(d.low <= d.value <= d.high for d in told)  # resampled distances are larger than the distance itself


def test_patients_are_what_is_drawn(tmp_path: Path) -> None:
    """Ten times the slices of the same patients tell hardly more: the interval must not shrink with them."""
    widths = []
    for name, n in (("few", 150), ("many", 1200)):
        found = compare_annotations(
            made(tmp_path / f"s{n}", 50, 1), made(tmp_path / name, n, 3, patients=10), config=QUICK
        )
        (area,) = [v for v in found.values if (v.measure, v.class_name) == ("mean_area", "ED")]
        widths.append(area.real_high - area.real_low)
    assert widths[1] > 0.6 * widths[0]


def test_classes_go_by_name(real: SliceSet, tmp_path: Path) -> None:
    one = compare_annotations(made(tmp_path / "one", 200, 1), real, config=QUICK)
    other = compare_annotations(made(tmp_path / "other", 200, 1, names=("ED", "ET")), real, config=QUICK)
    for a, b in zip(one.distances, other.distances, strict=True):
        assert (a.measure, a.class_name, a.value, a.low) == (b.measure, b.class_name, b.value, b.low)


def test_without_held_out_or_annotation(real: SliceSet, tmp_path: Path) -> None:
    empty = SliceWriter(tmp_path / "empty", real.channels, real.classes, EDGE)
    empty.append(
        np.zeros((9, 1, EDGE, EDGE), np.uint8), np.zeros((9, EDGE, EDGE), np.uint8), [{"id": str(i)} for i in range(9)]
    )
    few = made(tmp_path / "few", 40, 5, patients=2)
    found = compare_annotations(empty.close(), few, config=QUICK)
    assert np.isnan(distance(found, "area_wasserstein", "ET"))
    assert distance(found, "share_difference", "ET") > 0.3
    assert not outside(found)
    assert "real" not in found.maps
    text = " ".join(found.notes)
    for words in ("no floor", "fewer than 5 patients", "No synthetic slice"):
        assert words in text
    json.dumps(found.as_json(), allow_nan=False)


def test_other_classes_are_refused(real: SliceSet, tmp_path: Path) -> None:
    other = made(tmp_path / "three", 10, 1, names=("ET", "ED", "NCR"))
    with pytest.raises(UnderstudyError, match="ET, ED, NCR"):
        compare_annotations(other, real)


def test_a_file_in_the_place_of_the_folder_is_said_before_anything_is_compared(real: SliceSet, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    call = ["annotations", "--real", str(real.path), "--synthetic", str(real.path), "-q", "-o"]
    told = CliRunner().invoke(app, [*call, str(tmp_path / "out")])
    assert isinstance(told.exception, UnderstudyError)
    assert told.exit_code == 1
    assert told.exception.what == "a file stands where a folder is needed"
    assert (tmp_path / "out").read_text() == "mine"


def test_nothing_is_judged_without_held_out_patients(tmp_path: Path) -> None:
    sets = made(tmp_path / "t", 60, 2, patients=1), made(tmp_path / "s", 60, 1)
    assert set(sets[0].index["split"]) == {"train"}
    told = CliRunner().invoke(app, ["annotations", "--real", str(sets[0].path), "--synthetic", str(sets[1].path), "-q"])
    assert told.exit_code == 0, told.output
    assert "distances are larger" not in told.output
    assert "no held-out patients" in told.output


def test_the_command(real: SliceSet, tmp_path: Path) -> None:
    synthetic = made(tmp_path / "s", 60, 1)
    call = ["annotations", "--real", str(real.path), "--synthetic", str(synthetic.path), "-q"]
    call += ["-o", str(tmp_path / "out")]
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0, told.output
    assert "distances are larger than real patients'" in told.output
    assert "nan" not in told.output
    machine = CliRunner().invoke(app, [*call, "--json"])
    content = json.loads(machine.output)
    assert content["format"] == "understudy-annotations-1"
    assert content == json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert len(content["maps"]["real"]["ET"]) == 32
