"""The paper's tables, transcribed: complete, and consistent where the paper is."""

from __future__ import annotations

import pandas as pd
import pytest

from understudy.report.published import CONTRADICTIONS, DICE, HAUSDORFF, published

KEY = ["dataset", "segmenter", "original", "augmentation", "generator"]


@pytest.mark.parametrize("table", [3, 4, 8, 9])
def test_every_setting_stands_there_once(table: int) -> None:
    frame = published(table)
    settings = frame.drop_duplicates(["segmenter", "original", "augmentation", "generator"])
    assert len(frame) == 44 * 4
    assert len(settings) == 44  # 88 settings in both data sets
    assert (settings["segmenter"] == "swin").sum() == 22
    assert set(frame["class"]) == {"ET", "ED", "NCR/NET", "mean"}
    assert (frame["sd"].dropna() >= 0).all()
    assert frame["value"].isna().sum() == (1 if table == 9 else 0)


@pytest.mark.parametrize(("table", "low", "high"), [(3, 0.01, 0.81), (4, 0.28, 0.86), (8, 13, 132), (9, 10, 152)])
def test_values_are_in_the_range_of_the_table(table: int, low: float, high: float) -> None:
    assert published(table)["value"].dropna().between(low, high).all()


def test_numbers_that_the_text_of_the_paper_names() -> None:
    dice = published(3).set_index(["segmenter", "original", "augmentation", "generator", "class"])["value"]
    assert dice["unet", True, True, "", "mean"] == 0.729
    assert dice["unet", False, True, "diffusion", "mean"] == 0.730
    # "Excluding StyleGAN 1, the mean Dice score is improved by 16.8 % for the U-Net [by] augmentation, ... 4.1 %"
    names = ["progan", "stylegan2", "stylegan3", "diffusion"]
    for segmenter, gain in (("unet", 1.168), ("swin", 1.041)):
        with_, without = (sum(dice[segmenter, False, aug, g, "mean"] for g in names) for aug in (True, False))
        assert with_ / without == pytest.approx(gain, abs=0.001)
    assert published(6).query("image == 'real'")["real"].item() == 16
    assert published(6)[["real", "synthetic"]].sum(axis=1).eq(100).all()
    fid = published(2).set_index(["dataset", "generator"])["fid"]
    assert fid["brats2020"].idxmin() == "diffusion"


def test_only_swins_hausdorff_means_are_not_those_of_the_classes() -> None:
    found = []
    for table in (*DICE.values(), *HAUSDORFF.values()):
        wide = published(table).pivot(index=KEY, columns="class", values="value")
        classes, digit = wide[["ET", "ED", "NCR/NET"]], 0.001 if table in DICE.values() else 0.1
        # a rounded mean and three rounded classes differ by at most a digit
        less = classes.mean(axis=1) - wide["mean"]
        less = less[(classes.mean(axis=1, skipna=False) - wide["mean"]).abs() > 1.05 * digit]
        for segmenter, differ in less.groupby(level="segmenter"):
            start = f"Table {table}, {segmenter}: {len(differ)} of its"
            found.append((start, f"{(differ > 0).sum()} are smaller, by up to {differ.max():.1f}"))
    assert len(found) == len(CONTRADICTIONS)
    for (start, end), text in zip(found, CONTRADICTIONS, strict=True):
        assert text.startswith(start)
        assert text.endswith(end)


def test_table_5_follows_from_3_and_4() -> None:
    dice = pd.concat([published(table) for table in DICE.values()])
    means = dice[dice["class"] == "mean"].drop(columns=["class", "sd"])
    real = means[means["original"] & means["augmentation"] & (means["generator"] == "")]
    rows = published(5).merge(means, on=KEY).merge(real, on=["dataset", "segmenter"], suffixes=("", "_real"))
    low = (rows["value"] - 0.0005) / (rows["value_real"] + 0.0005) * 100
    high = (rows["value"] + 0.0005) / (rows["value_real"] - 0.0005) * 100
    assert len(rows) == 80
    assert rows["percent"].between(low - 0.01, high + 0.01).all()


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="table 1 "):
        published(1)
