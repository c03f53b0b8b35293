"""The registry of the five generators."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_models import SMALL, small

from understudy.errors import UnderstudyError
from understudy.generators.registry import KINDS, build, kind_called, model_config
from understudy.generators.training.config import training_config_for


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_its_parts(kind: str) -> None:
    parts = kind_called(kind)
    config = small(kind)[0]
    assert isinstance(config, parts.config)
    assert config.kind == kind == parts.training().kind  # type: ignore[attr-defined]
    assert parts.training is training_config_for(kind)
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


def test_one_kind_does_not_import_the_others() -> None:
    code = (
        "import sys; from understudy.generators.registry import kind_called; kind_called('stylegan2').config;"
        "print([m for m in ('diffusion', 'stylegan3', 'adversarial') if 'understudy.generators.' + m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
