"""Our networks against what the official code computed (tests/golden, or the folder UNDERSTUDY_GOLDEN)."""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.generators.official.weights import load_official_arrays

FOLDER = Path(os.environ.get("UNDERSTUDY_GOLDEN") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
# Kind of the official configuration -> golden_<module>.py beside this file: compute(model, given) and INPUTS.
MODULES = {
    "progan": "progan", "sg1": "stylegan1", "sg2": "stylegan2", "sg3t": "stylegan3", "sg3r": "stylegan3",
    "diffusion": "diffusion",
}  # fmt: skip
# Of the largest absolute value of each output, on any CPU; the diffusion model's are of up to 10 passes of the network.
TOLERANCE = {"diffusion": 5e-5}
GANS = 1e-5


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(config, weights, inputs and outputs) of a golden file."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = ast.literal_eval(str(arrays.pop("config")))
    weights = {k: v for k, v in arrays.items() if k.startswith(("G/", "D/", "M/"))}
    return config, weights, {k: v for k, v in arrays.items() if k not in weights}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs_equal_the_official_ones(path: Path) -> None:
    config, weights, given = read(path)
    kind = MODULES[str(config["kind"])]
    golden = importlib.import_module(f"golden_{kind}")
    found = golden.compute(load_official_arrays(config, weights), given)
    outputs = set(given) - golden.INPUTS
    assert outputs <= set(found), f"outputs without a comparison: {outputs - set(found)}"
    for name in sorted(outputs):
        expected, ours = given[name], found[name].detach().numpy().reshape(given[name].shape)
        worst = np.abs(ours - expected).max() / np.abs(expected).max()
        assert worst < TOLERANCE.get(kind, GANS), f"{name} differs by {worst:.2e} of its largest value"


def test_there_is_something_to_compare() -> None:
    assert FILES, f"no golden files in {FOLDER}"
