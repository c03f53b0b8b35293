"""Study files with random mistakes: planned, or refused with one message."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from understudy.errors import UnderstudyError
from understudy.study.config.schema import load_study, preset_text
from understudy.study.engine.plan import make_plan

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
VALUES = [
    "null", "~", "[]", "{}", "''", "0", "-1", "1e30", "1e-30", ".nan", ".inf", "-.inf", "nan", "true", "no", "30",
    "9223372036854775808", "9" * 5000, "2020-01-01", "2020-13-01", "0x1F", "1:30", "!!binary aa", "!!set {a}",
    "!!python/name:os.system", "&a [*a]", "*b", "<<", "? x", "text", "é", "\x07", "\t", "\u2028", "[[[1]]]", 
    "{a: {b: 1}}",    "'\\ud800'", '"\\ud800"', "'*'", "../..", "/", "stylegan2", "[real]", "quick", "x" * 300,
]  # fmt: skip


def mutated(text: str, rng: random.Random) -> bytes:
    """The text with one to three mistakes."""
    for _ in range(rng.randint(1, 3)):
        text = text or "name: x"
        kind, at = rng.randrange(7), rng.randrange(len(text) + 1)
        words = [i for i, c in enumerate(text) if c in ":,["] or [0]
        if kind == 0:  # another value
            start = rng.choice(words) + 1
            ends = [i for c in ",]}\n" if (i := text.find(c, start)) >= 0]
            text = f"{text[:start]} {rng.choice(VALUES)}{text[min(ends, default=len(text)) :]}"
        elif kind == 1:
            text = text[:at] + rng.choice(VALUES) + text[at:]
        elif kind == 2:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif kind == 3 and at:  # letters that have changed places
            text = text[: at - 1] + text[at - 1 : at + 1][::-1] + text[at + 1 :]
        elif kind == 4:  # a line somewhere else
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
            text = "\n".join(lines)
        elif kind == 5:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines).strip())
            text = "\n".join(lines)
        else:
            text = text[:at]
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(content) + 1)
        content = content[:at] + rng.randbytes(3) + content[at:]
    return content


@pytest.mark.parametrize("seed", range(6))
def test_a_study_with_mistakes_is_planned_or_refused_by_one_message(seed: int, tmp_path: Path) -> None:
    rng, path = random.Random(seed), tmp_path / "study.yaml"
    for text in [BASE] * 20 + [preset_text("quickstart")] * 5:
        path.write_bytes(mutated(text, rng))
        with contextlib.suppress(UnderstudyError):
            make_plan(load_study(path))
