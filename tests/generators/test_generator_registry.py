"""The registry of the five generators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_models import SMALL, small

from understudy.errors import UnderstudyError
from understudy.generators.folder import snapshot_folder
from understudy.generators.membership import MembershipScores
from understudy.generators.registry import KINDS, build, model_config, network_type, recipe_text
from understudy.generators.sample import sample_set
from understudy.generators.training.loop import train
from understudy.slices import SliceSet


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_its_parts(kind: str) -> None:
    parts = network_type(kind)
    config = small(kind)[0]
    assert isinstance(config, parts.config)
    assert config.kind == kind == parts.training().kind  # type: ignore[attr-defined]
    network = build(config, seed=1)
    assert network.generator.sample(1, 0).shape == (1, 3, 16, 16)  # type: ignore[operator,union-attr]
    assert model_config(config.model_dump()) == config


def test_the_small_models_are_all_kinds() -> None:
    assert set(SMALL) == set(KINDS)


def test_stylegan2_is_what_a_configuration_without_kind_means() -> None:
    assert model_config({"resolution": 32}).kind == "stylegan2"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="'gan'"):
        model_config({"kind": "gan"})


def test_names_are_known_without_torch() -> None:
    code = "import sys; from understudy.generators.registry import KINDS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SIXTH = """
from typing import Literal

from pydantic import Field

from understudy.generators.builtin import GanType
from understudy.generators.networks.stylegan2 import StyleGan2, StyleGan2Config
from understudy.generators.training.config import StyleGan2Training


class SixthConfig(StyleGan2Config):
    kind: Literal["sixth"] = "sixth"


class SixthTraining(StyleGan2Training):
    kind: Literal["sixth"] = "sixth"
    mixing: float = Field(default=0.5, ge=0, le=1)


class SixthType(GanType):
    config, training, network = SixthConfig, SixthTraining, StyleGan2
    aliases, recipes = ("sx",), {"quick": {"model": {"z_dim": 8}}}
"""


def test_a_sixth_generator_is_one_file_and_one_line(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sixth_generator.py").write_text(SIXTH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KINDS, "sixth", "sixth_generator:SixthType")
    kind = network_type("sixth")
    assert yaml.safe_load(recipe_text("quick"))["sixth"] == kind.recipe("quick") == {"model": {"z_dim": 8}}
    assert list(yaml.safe_load(recipe_text("quick", "sixth"))) == ["sixth"]
    assert "sixth" not in yaml.safe_load(recipe_text("paper"))
    with pytest.raises(UnderstudyError, match="'workstation'") as error:
        kind.recipe("workstation")
    assert "quick" in str(error.value.fix)
    fields = {"kind": "sixth", "resolution": 16, "channels": 3, "channel_base": 64, "channel_max": 4, "w_dim": 8}
    model = model_config(fields | kind.recipe("quick")["model"])
    training = kind.training(kimg=0.016, batch=8, keep_weights_kimg=[0.008], tensorboard=False)
    run = train(slices, None, model, training, tmp_path / "run", "cpu", progress=False)
    made = sample_set([run, snapshot_folder(run, 0.008)], 4, 0, tmp_path / "made", device="cpu", progress=False)
    assert made.images.shape == (4, 2, 16, 16)
    scores, _ = MembershipScores(run)(slices, np.arange(5))
    assert len(scores) == 5
    assert kind.training_operations(model, training, kind.count) > kind.sampling_operations(model, None, kind.count) > 0
