"""Drawing and the bootstrap, which are tested elsewhere, cost most of a section's time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.report.tables.RESAMPLES", 200)
        patch.setattr("understudy.report.plots.style._rendered", lambda figure: (b"<svg/>", b"PNG"))
        yield
