"""A short run of benchmarks/fuzz_inputs.py: no traceback, and `check` agrees with `prepare`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[2] / "benchmarks" / "fuzz_inputs.py"
_SPEC = importlib.util.spec_from_file_location("fuzz_inputs", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_mutated_inputs_are_refused_or_read_right(kind: str, tmp_path: Path) -> None:
    outcomes = set()
    for number in range(12):
        root = tmp_path / str(number)
        root.mkdir()
        outcomes.add(fuzz.run_case(kind, number, root))
        assert outcomes <= {"accepted", "refused"}, f"{kind}:{number}"
    # both kinds occur: the mutations are neither harmless nor all fatal
    assert outcomes == {"accepted"} if kind == "images" else outcomes == {"accepted", "refused"}


def test_the_unchanged_cohort_is_accepted(tmp_path: Path) -> None:
    fuzz.write_cohort(tmp_path)
    assert fuzz.checked_and_prepared(tmp_path) == "accepted"
