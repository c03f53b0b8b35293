"""The paper's tables, transcribed: complete, and consistent where the paper is."""

from __future__ import annotations

import pytest

from understudy.report.published import contradictions, published


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


def test_table_5_follows_from_3_and_4_and_only_swins_hausdorff_means_do_not_add_up() -> None:
    found = contradictions()
    assert len(published(5)) == 80
    assert [text.split(":")[0] for text in found] == ["Table 8, swin", "Table 9, swin"]
    assert "22 of its printed means" in found[0]


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="table 1 "):
        published(1)
