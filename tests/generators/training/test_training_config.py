"""Training configurations: the paper's numbers are the defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from understudy.errors import UnderstudyError
from understudy.generators.registry import network_type
from understudy.generators.training.config import (
    DiffusionTraining,
    ProGanTraining,
    StyleGan1Training,
    StyleGan2Training,
    StyleGan3Training,
)


def test_the_defaults_are_table_7() -> None:
    kinds = ("progan", "stylegan1", "stylegan2", "stylegan3", "diffusion")
    assert [network_type(kind).training().kimg for kind in kinds] == [12000, 25000, 25000, 25000, 7800]
    assert [network_type(kind).training().batch for kind in kinds] == [8, 16, 32, 32, 12]
    progan = ProGanTraining().schedule()
    assert [progan.batch_at(level, 256) for level in range(6, -1, -1)] == [128, 128, 128, 64, 32, 16, 8]
    assert progan.level(7_200_000, 256) == 0
    stylegan1 = StyleGan1Training().schedule()
    assert stylegan1.level(6_000_000, 256) == 0
    assert StyleGan1Training().rates == {128: 0.0015, 256: 0.002, 512: 0.003}
    assert StyleGan1Training().r1_interval == 1
    assert StyleGan2Training().r1_interval == StyleGan3Training().r1_interval == 16  # lazy: Karras et al. 2020, app. B
    assert StyleGan2Training().pl_interval == 4


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="biggan") as error:
        network_type("biggan")
    assert "progan, stylegan1" in str(error.value.fix)


def test_gamma_follows_resolution_and_batch() -> None:
    assert StyleGan2Training(batch=32).gamma(256) == pytest.approx(0.4096)
    assert StyleGan3Training(batch=32).gamma(256) == pytest.approx(2.048)  # official: 2
    assert StyleGan3Training(batch=32).gamma(512) == pytest.approx(8.192)  # official: 8.2
    assert StyleGan2Training(r1_gamma=8.2).gamma(256) == 8.2
    assert StyleGan2Training(r1_gamma=8.2).gamma_advice(256) is None  # the paper's, 20 times the guide
    advice = StyleGan2Training(r1_gamma=8.2, batch=32).gamma_advice(32)
    assert advice is not None
    assert "32 pixels and batch 32" in advice


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="pl_shrink"):
        StyleGan2Training(batch=9)
    with pytest.raises(ValidationError, match="power of two"):
        ProGanTraining(start_resolution=6)
    with pytest.raises(ValidationError, match="Extra inputs"):
        DiffusionTraining(r1_gamma=1)  # type: ignore[call-arg]


def test_a_study_file_gives_resolutions_as_text() -> None:
    read = ProGanTraining.model_validate({"batches": {"8": 64}, "rates": {"16": 0.002}})
    assert read.batches == {8: 64}
    assert ProGanTraining.model_validate(read.model_dump(mode="json")) == read
