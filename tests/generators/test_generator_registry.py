"""The registry of the five generators."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_models import SMALL, small

from understudy.errors import UnderstudyError
from understudy.generators.registry import KINDS, build, model_config, network_type


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
