"""Regions and collapsed runs in tables of rows, old rows without these columns included."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_rows import scored_rows

from understudy.errors import UnderstudyError
from understudy.metrics.rows import class_names, collapsed_runs, counted, flag, region_names, without_collapsed
from understudy.metrics.statistics import compare, cube, relative_dice, summarise

DICE = np.random.default_rng(0).uniform(0.4, 0.9, (6, 3, 4))  # two classes, then two regions


def with_regions(collapsed: tuple[int, ...] = ()) -> pd.DataFrame:
    return scored_rows("s", DICE, ["NCR", "ED"], ["WT", "TC"], collapsed)


def test_regions_stand_beside_the_classes_and_out_of_the_mean() -> None:
    rows = with_regions()
    assert class_names(rows) == ["NCR", "ED"]
    assert region_names(rows) == ["WT", "TC"]
    assert cube(rows, "s").classes == ("NCR", "ED")
    assert cube(rows, "s", classes=["WT"]).values == pytest.approx(DICE[:, :, 2:3])
    table = summarise(rows, ("dice",)).set_index("class_name")
    assert list(table.index) == ["NCR", "ED", "WT", "TC", "foreground", "mean"]
    assert table.loc["mean", "value"] == pytest.approx(DICE[:, :, :2].mean())
    assert table.loc["TC", "value"] == pytest.approx(DICE[:, :, 3].mean())
    assert table["region"].tolist() == [False, False, True, True, False, False]


def test_rows_of_an_older_version_count_as_before() -> None:
    old = scored_rows("old", DICE[:, :, :2]).drop(columns=["region", "collapsed"])
    mixed = pd.concat([old, with_regions(collapsed=(1,))])
    assert not flag(old, "region").any()
    assert class_names(old) == class_names(mixed) == ["NCR", "ED"]
    assert flag(mixed, "collapsed").sum() == 6 * 5
    assert cube(mixed, "old").values == pytest.approx(DICE[:, :, :2])
    assert relative_dice(mixed, "s", "old").value == pytest.approx(1)
    assert list(summarise(mixed, ("dice",))["n_collapsed"].unique()) == [0, 1]


def test_both_means_are_given_where_runs_collapsed() -> None:
    dice = DICE.copy()
    dice[:, 2] = 0.02
    rows = scored_rows("s", dice, ["NCR", "ED"], ["WT", "TC"], collapsed=(2,))
    mean = summarise(rows, ("dice",)).set_index("class_name").loc["mean"]
    assert mean["value"] == pytest.approx(dice[:, :, :2].mean())
    assert (mean["n_repeats"], mean["n_collapsed"]) == (3, 1)
    assert mean["value_without_collapsed"] == pytest.approx(dice[:, :2, :2].mean())
    assert mean["sd_without_collapsed"] == pytest.approx(dice[:, :2, :2].mean((0, 2)).std())
    assert mean["sd"] > 5 * mean["sd_without_collapsed"]
    assert cube(rows, "s", collapsed="out").repeats == (0, 1)
    assert collapsed_runs(rows).to_dict("records") == [{"setting": "s", "n_repeats": 3, "n_collapsed": 1}]
    assert set(without_collapsed(rows)["repeat"]) == {0, 1}
    base = scored_rows("real", DICE, ["NCR", "ED"], ["WT", "TC"])
    both = pd.concat([rows, base])
    assert compare(both, "real", collapsed="in").loc[0, "difference"] < -0.1
    out = compare(both, "real", collapsed="out").loc[0]
    assert out["difference"] == pytest.approx(DICE[:, :2, :2].mean() - DICE[:, :, :2].mean())
    assert out["n_repeats"] == 2


def test_nothing_is_left_out_without_a_word() -> None:
    rows = with_regions(collapsed=(0, 1, 2))
    mean = summarise(rows, ("dice",)).set_index("class_name").loc["mean"]
    assert mean["value"] == pytest.approx(DICE[:, :, :2].mean())
    assert np.isnan(mean["value_without_collapsed"])
    with pytest.raises(UnderstudyError, match="every run of the setting 's' collapsed"):
        cube(rows, "s", collapsed="out")
    with pytest.raises(UnderstudyError, match="'in' or 'out'"):
        counted(rows, "maybe")  # type: ignore[arg-type]
