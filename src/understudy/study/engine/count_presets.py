"""Counts the presets' networks: `python -m understudy.study.engine.count_presets` writes costs.json beside this file.

Run it after a change of a preset or recipe; a plan of networks that are not there counts them itself, which takes
some seconds more.
"""

from __future__ import annotations

from pathlib import Path

from understudy.io.files import write_json
from understudy.study.config.schema import Study, preset, presets
from understudy.study.engine import measured
from understudy.study.engine.estimate import network_costs

CHANNELS, CLASSES = 4, 4  # of BraTS and of phantoms


def main() -> None:
    """Writes costs.json."""
    measured.shipped().clear()  # count all of them, whatever is known
    measured._kept().clear()
    for name in presets():
        network_costs(Study.model_validate(preset(name)), CHANNELS, CLASSES)
    write_json(Path(__file__).with_name("costs.json"), measured._kept())


if __name__ == "__main__":
    main()
