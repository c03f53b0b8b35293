"""One thread a test process: tests run side by side on few cores, and results must not depend on the count."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import hypothesis

# No test asserts a time of the clock; a loaded machine would fail examples at random.
hypothesis.settings.register_profile("understudy", deadline=None)
hypothesis.settings.load_profile("understudy")

# What is measured once for a machine is kept between tests, and away from the user's own.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"understudy-tests-{os.getuid()}")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

pytest_plugins = ["plugged"]


def _freeze(phase: str, info: dict[str, int]) -> None:
    """What survived a full collection is not walked again: each job of a study ends with one, 0.2 s among imports."""
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


gc.callbacks.append(_freeze)
