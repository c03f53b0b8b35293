"""Progress lines where there is no terminal."""

from __future__ import annotations

import pytest

from understudy.runtime.progress import track


def test_first_and_last_step_are_written_with_rate_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with track(4, "training", unit="images", done=1) as meter:
        for loss in (0.5, 0.25, 0.125):
            meter.advance(1, loss=loss)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training: 2/4 images (")
    assert lines[-1].startswith("training: 4/4 images (")
    assert "0 s left" in lines[-1]
    assert lines[-1].endswith("loss 0.125")


def test_silent_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with track(2, "training", show=False) as meter:
        meter.advance(2)
    assert meter.done == 2
    assert capsys.readouterr() == ("", "")
