"""Whole measurements: features kept and continued, floors by patient, averages, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_slices import Pooled, slice_set

from understudy.errors import UnderstudyError
from understudy.quality import metrics
from understudy.quality.config import QualityConfig
from understudy.quality.distances import between_features, kernel_distance
from understudy.quality.features import FeatureCache
from understudy.quality.measure import NEARER, Row, compare, make_parts, measure, write_results
from understudy.quality.metrics import METRICS, Input, Label, Metric, Setup, Values, label_of
from understudy.slices import SliceSet, SliceWriter, evenly_coded

PEOPLE = ("a", "b", "c", "d", "e", "f")
SPLITS = ("train", "train", "train", "train", "val", "val")


def config(**changes: Any) -> QualityConfig:
    return QualityConfig.model_validate({"divisions": 3, "kernel_subsets": 3, "kernel_size": 40, **changes})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    """Four training patients of 30 slices, two held-out ones."""
    return slice_set(tmp_path_factory.mktemp("real") / "set", 180, 0, patients=PEOPLE, splits=SPLITS)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    """Channels in another order than the real set's, and brighter."""
    return slice_set(tmp_path_factory.mktemp("synthetic") / "set", 150, 1, shift=30, channels=("FLAIR", "T1w"))


def by_metric(rows: list[Row], channel: str) -> dict[str, Row]:
    return {r.metric: r for r in rows if r.channel == channel}


def test_every_number_has_its_floor(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    rows = measure(make_parts(synthetic, real), Pooled(), FeatureCache(tmp_path), config())
    assert {r.channel for r in rows} == {"T1w", "FLAIR", "mean"}
    found = by_metric(rows, "T1w")
    assert list(found) == ["frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"]
    for row in found.values():
        assert (row.n_real, row.n_synthetic, row.n_heldout) == (120, 150, 60)
        assert (row.patients_real, row.patients_heldout) == (4, 2)
        assert all(math.isfinite(v) for v in (row.value, row.matched, row.floor, row.floor_mean, row.floor_sd))
    # by hand, from the pixels: brighter slices are far off, other patients are not
    train, val = real.rows(split="train"), real.rows(split="val")
    one, two = (Pooled().features(real.read(r)[0][:, 0]) for r in (train, val))
    other = Pooled().features(synthetic.read(slice(None))[0][:, 1])
    assert found["frechet_distance"].value == pytest.approx(between_features(other, one))
    assert found["frechet_distance"].floor == pytest.approx(between_features(two, one))
    assert found["frechet_distance"].value > 5 * found["frechet_distance"].floor
    assert found["coverage"].matched < found["coverage"].floor


def test_averages_are_over_channels(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    rows = measure(make_parts(synthetic, real), Pooled(), FeatureCache(tmp_path), config())
    mean = by_metric(rows, "mean")["recall"]
    parts = [by_metric(rows, c)["recall"] for c in ("T1w", "FLAIR")]
    assert mean.value == pytest.approx(sum(p.value for p in parts) / 2)
    assert mean.floor == pytest.approx(sum(p.floor for p in parts) / 2)
    together = [(a + b) / 2 for a, b in zip(parts[0].floors, parts[1].floors, strict=True)]
    assert mean.floor_sd == pytest.approx(np.std(together, ddof=1))
    one = measure(make_parts(synthetic, real, channels=["FLAIR"]), Pooled(), FeatureCache(tmp_path), config())
    assert {r.channel for r in one} == {"FLAIR"}
    assert [r.value for r in one] == [r.value for r in rows if r.channel == "FLAIR"]


def test_an_extractor_of_all_channels_gets_them_by_name(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    joint = Pooled(channels=("FLAIR", "T1w"))
    rows = measure(make_parts(synthetic, real), joint, FeatureCache(tmp_path), config())
    assert {r.channel for r in rows} == {"all"}
    kept = FeatureCache(tmp_path).features(synthetic, (), joint)["all"]
    np.testing.assert_allclose(kept, joint.features(synthetic.read(slice(None))[0]))


def test_the_floors_spread_is_by_patient(tmp_path: Path) -> None:
    """Patients far from each other: dividing patients moves the floor a lot, dividing slices would not."""
    writer = SliceWriter(tmp_path / "s", ["T1w"], evenly_coded({1: "lesion"}), 8)
    rng, patients = np.random.default_rng(0), 8
    level = np.repeat(np.linspace(20, 230, patients), 20)
    images = np.clip(level[:, None, None, None] + rng.normal(0, 8, (160, 1, 8, 8)), 0, 255).astype(np.uint8)
    rows = [{"subject": f"p{i // 20}", "split": "val" if i >= 120 else "train"} for i in range(160)]
    writer.append(images, np.zeros((160, 8, 8), np.uint8), rows)
    real = writer.close()
    copies = slice_set(tmp_path / "c", 80, 3, channels=("T1w",))
    rows_ = measure(make_parts(copies, real), Pooled(), FeatureCache(tmp_path / "f"), config(divisions=8))
    frechet = by_metric(rows_, "T1w")["frechet_distance"]
    assert frechet.floor_sd > 0.2 * frechet.floor_mean
    assert frechet.floor > 0


def test_a_small_synthetic_set_is_compared_with_as_many_held_out_slices(real: SliceSet, tmp_path: Path) -> None:
    """Other slices of the same kind: equal to the floor within chance only if both are seen as often."""
    few = slice_set(tmp_path / "few", 12, 9)
    (row,) = (
        r
        for r in measure(make_parts(few, real), Pooled(), FeatureCache(tmp_path / "f"), config(matched=9))
        if (r.metric, r.channel) == ("coverage", "mean")
    )
    assert (row.n_synthetic, row.n_heldout, row.n_matched) == (12, 60, 12)
    assert row.value == pytest.approx(row.matched)
    assert abs(row.matched - row.floor) < 0.15
    whole = make_parts(slice_set(tmp_path / "many", 60, 9), real)
    rows = measure(whole, Pooled(), FeatureCache(tmp_path / "f"), config())
    assert by_metric(rows, "mean")["coverage"].floor > row.floor + 0.15


def test_nearer_than_new_patients_is_said_of_every_distance(real: SliceSet, tmp_path: Path) -> None:
    images, labels = real.read(real.rows(split="train"))
    copies = SliceSet.from_arrays(images, labels, channels=real.channels, classes=real.classes)
    rows = measure(make_parts(copies, real), Pooled(), FeatureCache(tmp_path / "f"), config())
    distances = [row for row in rows if label_of(row.metric).better is False]
    assert {row.metric for row in distances} >= {"frechet_distance", "kernel_distance"}
    assert {row.note for row in distances} == {NEARER}
    far = make_parts(slice_set(tmp_path / "far", 60, 1, shift=60), real)
    others = measure(far, Pooled(), FeatureCache(tmp_path / "g"), config())
    assert NEARER not in {row.note for row in others}


def test_results_are_written(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    parts, settings = make_parts(synthetic, real), config()
    rows = measure(parts, Pooled(), FeatureCache(tmp_path / "f"), settings)
    write_results(tmp_path, rows, parts, settings)
    content = json.loads((tmp_path / "quality.json").read_text())
    assert content["sets"]["real"] == real.content_hash
    assert len(content["rows"]) == len(rows)
    assert content["rows"][0]["rule"] == Pooled().rule
    frame = pd.read_parquet(tmp_path / "quality.parquet")
    assert frame["value"].tolist() == [r.value for r in rows]
    again = measure(parts, Pooled(), FeatureCache(tmp_path / "f"), settings)
    assert write_results(tmp_path / "again", again, parts, settings).equals(frame)


def test_too_few_slices_are_refused_left_out_or_extrapolated(
    real: SliceSet, synthetic: SliceSet, tmp_path: Path
) -> None:
    class Long(Pooled):
        def features(self, images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), -1)[:, :64].astype(np.float32)

    wide = Long()
    wide.dimension = 64
    short = slice_set(tmp_path / "short", 30, 5)
    cache = FeatureCache(tmp_path / "f")
    with pytest.raises(UnderstudyError, match="30 synthetic slices"):
        measure(make_parts(short, real), wide, cache, config())
    left = by_metric(measure(make_parts(short, real), wide, cache, config(too_few="leave_out")), "T1w")
    assert math.isnan(left["frechet_distance"].value)
    assert "fewer slices than the 64 dimensions" in left["frechet_distance"].note
    assert math.isfinite(left["kernel_distance"].value)
    more = by_metric(measure(make_parts(short, real), wide, cache, config(extrapolate=True)), "T1w")
    infinite = more["frechet_distance_infinity"]
    assert all(math.isfinite(v) for v in (infinite.value, infinite.sd, infinite.floor))
    # enough synthetic slices, but not enough held-out ones for a floor of this distance
    floorless = by_metric(measure(make_parts(synthetic, real), wide, cache, config()), "T1w")
    assert math.isfinite(floorless["frechet_distance"].value)
    assert "60 slices are fewer than the 64" in floorless["frechet_distance"].note


def test_without_held_out_patients_there_is_no_floor(synthetic: SliceSet, tmp_path: Path) -> None:
    real = slice_set(tmp_path / "r", 60, 0, patients=PEOPLE)
    rows = measure(make_parts(synthetic, real), Pooled(), FeatureCache(tmp_path / "f"), config())
    assert all("no held-out patients" in r.note for r in rows)
    assert all(math.isnan(r.floor) for r in rows)


def test_sets_that_do_not_fit_are_refused(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    one = slice_set(tmp_path / "one", 20, 0, channels=("T1w",))
    with pytest.raises(UnderstudyError, match="T1w, but the real"):
        make_parts(one, real)
    assert make_parts(one, real, channels=["T1w"]).channels == ("T1w",)
    with pytest.raises(UnderstudyError, match="T2w"):
        make_parts(synthetic, real, channels=["T2w"])
    with pytest.raises(UnderstudyError, match="16 pixels"):
        make_parts(slice_set(tmp_path / "large", 20, 0, edge=16), real)
    shared = slice_set(tmp_path / "shared", 20, 0, patients=("a", "z"))
    with pytest.raises(UnderstudyError, match="both sides"):
        make_parts(synthetic, real, shared)
    nobody = slice_set(tmp_path / "nobody", 20, 0)
    with pytest.raises(UnderstudyError, match="subject"):
        make_parts(synthetic, real, nobody)
    tests = slice_set(tmp_path / "tests", 20, 0, patients=("y", "z"), splits=("train", "train"))
    with pytest.raises(UnderstudyError, match="no held-out slices"):
        make_parts(synthetic, real, tests)


def test_constant_slices(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    blank = SliceWriter(tmp_path / "blank", ["T1w", "FLAIR"], evenly_coded({1: "lesion"}), 8)
    index = [{"id": str(i)} for i in range(40)]
    blank.append(np.full((40, 2, 8, 8), 7, np.uint8), np.zeros((40, 8, 8), np.uint8), index)
    flat, cache = blank.close(), FeatureCache(tmp_path / "f")
    with pytest.raises(UnderstudyError, match="look the same"):
        measure(make_parts(synthetic, flat), Pooled(), cache, config())
    # a generator that makes one image only is a finding, not an error
    rows = by_metric(measure(make_parts(flat, real), Pooled(), cache, config()), "T1w")
    assert rows["coverage"].value < 0.1
    assert rows["recall"].value == 0
    assert rows["frechet_distance"].value > rows["frechet_distance"].floor


def test_a_metric_is_a_function_and_a_line(
    real: SliceSet, synthetic: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gap(synthetic: Input, real: Input, setup: Setup) -> Values:
        return {"mean_gap": (float(abs(synthetic.mean() - real.mean())), math.nan)}

    monkeypatch.setattr(metrics, "METRICS", (*METRICS, Metric({"mean_gap": Label("Gap of means")}, gap)))
    rows = measure(make_parts(synthetic, real), Pooled(), FeatureCache(tmp_path), config())
    assert [r.metric for r in rows if r.channel == "T1w"][-1] == "mean_gap"
    found = by_metric(rows, "mean")["mean_gap"]
    assert found.value > 3 * found.floor > 0
    assert np.isfinite(found.floor_sd)


def test_a_metric_may_ask_for_images(
    real: SliceSet, synthetic: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharpness: measured once, not for every extractor, with its floor; the images are uint8 [n, H, W]."""

    def sharpness(images: Input) -> float:
        return float(np.mean([np.gradient(images.astype(float), axis=(1, 2))[0].std()]))

    def sharper(synthetic: Input, real: Input, setup: Setup) -> Values:
        assert synthetic.dtype == real.dtype == np.uint8
        assert real.shape[1:] == (8, 8)
        assert synthetic.base is real.base is None  # no view of images of all channels
        return {"sharpness": (sharpness(synthetic) - sharpness(real), math.nan)}

    more = Metric({"sharpness": Label("Sharpness")}, sharper, of="images")
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, more))
    parts, cache = make_parts(synthetic, real), FeatureCache(tmp_path)
    rows = compare(parts, [Pooled(), Pooled()], cache, config())
    assert [(r.channel, r.extractor) for r in rows if r.metric == "sharpness"] == [
        ("T1w", "images"), ("FLAIR", "images"), ("mean", "images"),
    ]  # fmt: skip
    found = by_metric(rows, "FLAIR")["sharpness"]
    one, other = real.read(real.rows(split="train"))[0][:, 1], synthetic.read(slice(None))[0][:, 0]
    assert found.value == sharpness(other) - sharpness(one)
    assert np.isfinite(found.floor)
    assert found.note == ""
    write_results(tmp_path, rows, parts, config())


def test_a_metric_of_images_that_is_not_defined_says_nothing_of_dimensions(
    real: SliceSet, synthetic: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(synthetic: Input, real: Input, setup: Setup) -> Values:
        return {"never": (math.nan, math.nan), "seldom": (math.nan if setup.floor else 1.0, math.nan)}

    labels = {"never": Label("Never"), "seldom": Label("Seldom")}
    monkeypatch.setattr(metrics, "METRICS", (Metric(labels, none, of="images"),))
    found = by_metric(compare(make_parts(synthetic, real), [], FeatureCache(tmp_path), config()), "T1w")
    assert found["never"].note == "not computed: not defined for these slices"
    assert found["seldom"].note == "no floor: not defined for these slices"


def test_random_numbers_of_a_metric_do_not_depend_on_the_others(
    real: SliceSet, synthetic: SliceSet, tmp_path: Path
) -> None:
    parts, cache = make_parts(synthetic, real, channels=["T1w"]), FeatureCache(tmp_path)
    alone, beside = (
        by_metric(measure(parts, Pooled(), cache, config(extrapolate=more, neighbours_slices=50)), "T1w")
        for more in (False, True)
    )
    assert set(beside) == {*alone, "frechet_distance_infinity"}
    assert [beside[key].value for key in alone] == [alone[key].value for key in alone]
    # as they have always been
    images = (real.read(real.rows(split="train"))[0][:, 0], synthetic.read(slice(None))[0][:, 1])
    one, other = (Pooled().features(x) for x in images)
    drawn = kernel_distance(other, one, np.random.default_rng([0, 1]), 3, 40)
    assert (alone["kernel_distance"].value, alone["kernel_distance"].sd) == drawn


def test_numbers_have_names_for_people() -> None:
    assert (label_of("coverage").name, label_of("coverage").better) == ("Coverage", True)
    assert (label_of("one_more").name, label_of("one_more").better) == ("one more", None)
