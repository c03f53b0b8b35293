"""Images that somebody else made, in the place of a trained generator's samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.slices import SliceSet
    from understudy.study.engine.jobs import Context


def read_samples(context: Context) -> dict[str, Any]:
    """Reads the folder of a `sample` job without a generator into the slice set `slices`.

    Raises:
        UnderstudyError: whatever is wrong in the folder, slices of patients who are kept for validation or test.
    """
    from understudy.exchange.read import read_folder
    from understudy.exchange.spec import FolderSpec
    from understudy.exchange.target import Target
    from understudy.slices import SliceSet

    real = SliceSet.open(context.input("prepare") / "slices")
    root = Path(context.local["path"])
    made = read_folder(
        root,
        FolderSpec.model_validate(context.spec["folder"]),
        context.folder / "slices",
        Target.of(real),
        context.spec["name"],
        context.progress,
        context.spec["count"],
    )
    refuse_held_out(made, real, root)
    return {
        "slices": len(made),
        "content_hash": made.content_hash,
        "annotation": made.attrs["annotation"],
        "notes": made.attrs["notes"],
    }


def refuse_held_out(made: SliceSet, real: SliceSet, root: Path) -> None:
    """Stops where the folder holds slices of patients that segmenters are selected on or tested on.

    Raises:
        UnderstudyError: as said.
    """
    if "subject" not in made.index or "subject" not in real.index:
        return
    kept = set(real.index["subject"][real.index["split"] != "train"])
    leaked = sorted(set(made.index["subject"]) & kept)
    if leaked:
        raise UnderstudyError(
            f"the folder holds slices of {len(leaked)} patients who are kept for validation or test, e.g. {leaked[0]}",
            where=root,
            fix="leave them out: a segmenter that was trained on them says nothing",
        )
