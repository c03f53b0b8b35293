"""Results on disk: `quality.json` and `quality.parquet`, the same raw numbers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from understudy import __version__
from understudy.io.files import atomic_path, write_text
from understudy.quality.config import QualityConfig
from understudy.quality.measure import Row, as_frame
from understudy.quality.sets import Parts

FORMAT = "understudy-quality-1"


def as_json(rows: list[Row], parts: Parts, config: QualityConfig) -> dict[str, Any]:
    """Plain JSON values: what was compared, how, and every number (null where undefined)."""
    sets = {"real": parts.real, "synthetic": parts.synthetic, "heldout": parts.heldout}
    return {
        "format": FORMAT,
        "software_version": __version__,
        "config": config.model_dump(mode="json"),
        "sets": {k: p.slices.content_hash for k, p in sets.items() if p is not None},
        "channels": list(parts.channels),
        "resolution": parts.real.slices.resolution,
        "rows": [{k: _plain(v) for k, v in asdict(row).items()} for row in rows],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(folder: str | Path, rows: list[Row], parts: Parts, config: QualityConfig) -> pd.DataFrame:
    """Writes both files and returns the frame.

    Raises:
        UnderstudyError: disk full, no permission.
    """
    folder, frame = Path(folder), as_frame(rows)
    content = as_json(rows, parts, config)
    write_text(folder / "quality.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    with atomic_path(folder / "quality.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    return frame
