"""A short run of benchmarks/fuzz_inputs.py: no traceback, and `check` agrees with `prepare`."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.study.config.schema import load_study, preset_text
from understudy.study.engine.plan import make_plan

_PATH = Path(__file__).parents[2] / "benchmarks" / "fuzz_inputs.py"
_SPEC = importlib.util.spec_from_file_location("fuzz_inputs", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
sys.path.append(str(_PATH.parent))
_SPEC.loader.exec_module(fuzz)
formats = sys.modules["fuzz_formats"]


@pytest.mark.parametrize("kind", [kind for kind in fuzz.KINDS if kind not in fuzz.FORMATS])
def test_mutated_inputs_are_refused_or_read_right(kind: str, tmp_path: Path) -> None:
    outcomes = set()
    for number in range(12):
        root = tmp_path / str(number)
        root.mkdir()
        outcomes.add(fuzz.run_case(kind, number, root))
        assert outcomes <= {"accepted", "refused"}, f"{kind}:{number}"
    # both kinds occur: the mutations are neither harmless nor all fatal
    assert outcomes == {"accepted"} if kind == "images" else outcomes == {"accepted", "refused"}


@pytest.mark.parametrize("kind", sorted(fuzz.FORMATS))
def test_changed_files_of_every_format_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    for number in range(10):
        (root := tmp_path / str(number)).mkdir()
        assert fuzz.run_case(kind, number, root) in ("accepted", "refused"), f"{kind}:{number}"


@pytest.mark.parametrize("kind", sorted(set(fuzz.FORMATS) - {"documents", "checkpoints"}))  # forms are not filled in
def test_files_that_were_not_changed_are_accepted(kind: str, tmp_path: Path) -> None:
    assert formats.run_unchanged(kind, tmp_path) == "accepted"


def test_the_unchanged_cohort_is_accepted(tmp_path: Path) -> None:
    fuzz.write_cohort(tmp_path, study=fuzz.STUDY)
    assert fuzz.checked_and_prepared(tmp_path) == "accepted"


BASE = """
name: mutated
phantom: {patients: 6, shape: [32, 32, 16], seed: 3}
slices: {resolution: 32, scaling: max, rule_fraction: 0.1}
split: {test_patients: 2, validation_fraction: 0.25}
generators:
  stylegan2: {recipe: quick, samples: 200, training: {kimg: 1}}
  mine: {model: {kind: diffusion}, samples: 200, ensemble: 2, sampler: {kind: ddim, steps: 10}}
segmenters: {unet: {training: {samples: 500}}, swin: {model: {size: mini}}}
trainings: [real, synthetic, both]
real_fractions: [0.5, 1.0]
ratios: [0, 0.5, 1]
exclude: [{segmenter: swin, training: synthetic}]
audit: {quantile: 0.99}
repeats: 2
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_study_with_mistakes_is_planned_or_refused_by_one_message(seed: int, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(seed), tmp_path / "study.yaml"
    for text in [BASE] * 20 + [preset_text("quickstart")] * 5:
        path.write_bytes(fuzz.mutated_study(text, rng))
        with contextlib.suppress(UnderstudyError):
            make_plan(load_study(path))
