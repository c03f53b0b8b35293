"""Our networks against what the official code computed (tests/golden, or the folder UNDERSTUDY_GOLDEN)."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.generators.official import load_official_arrays, supported_kinds
from understudy.generators.stylegan2 import StyleGan2
from understudy.generators.trainer import path_lengths, squared_gradient

FOLDER = Path(os.environ.get("UNDERSTUDY_GOLDEN") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
TOLERANCE = 1e-4  # of the largest absolute value of each output


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(config, weights, inputs and outputs) of a golden file."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = ast.literal_eval(str(arrays.pop("config")))
    weights = {k: v for k, v in arrays.items() if k.startswith(("G/", "D/", "M/"))}
    return config, weights, {k: v for k, v in arrays.items() if k not in weights}


def compute(model: StyleGan2, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our value for every output of a StyleGAN 2 golden file."""
    inputs = {k: torch.from_numpy(v) for k, v in given.items()}
    generator, discriminator = model.generator, model.discriminator
    found: dict[str, torch.Tensor] = {}
    if "z" in inputs:
        found["w"] = generator.mapping(inputs["z"])
        found["img"] = generator(inputs["z"])
        found["score_fake"] = discriminator(found["img"])
        for name in given:
            if name.startswith("img_psi"):
                found[name] = generator(inputs["z"], psi=float(name.removeprefix("img_psi")))
    if "real" in inputs:
        found["score_real"] = discriminator(inputs["real"])
        found["r1_grad_sq"] = squared_gradient(discriminator, inputs["real"])[1]
    if "pl_noise" in inputs:
        ws = generator.broadcast(found["w"]).detach()
        found["pl_length"] = path_lengths(generator.synthesis, ws, inputs["pl_noise"])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs_equal_the_official_ones(path: Path) -> None:
    config, weights, given = read(path)
    if config.get("kind") not in supported_kinds():
        pytest.skip(f"{path.name}: models of kind {config.get('kind')!r} come in a later issue")
    model = load_official_arrays(config, weights)
    assert isinstance(model, StyleGan2)
    found = compute(model, given)
    outputs = set(given) - {"z", "real", "pl_noise"}
    assert outputs <= set(found), f"outputs without a comparison: {outputs - set(found)}"
    for name in sorted(outputs):
        expected, ours = given[name], found[name].detach().numpy().reshape(given[name].shape)
        worst = np.abs(ours - expected).max() / np.abs(expected).max()
        assert worst < TOLERANCE, f"{name} differs by {worst:.2e} of its largest value"


def test_there_is_something_to_compare() -> None:
    assert FILES, f"no golden files in {FOLDER}"
