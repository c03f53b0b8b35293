"""The training of a plug-in generator as a job; it is sampled, audited and tested like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.generators.plugins import plugin_called

if TYPE_CHECKING:
    from understudy.study.config.generators import PluginSpec
    from understudy.study.engine.jobs import Context


def plugin_content(generator: PluginSpec) -> dict[str, Any]:
    """What the id of its training depends on: who it is, which version, how it is set.

    Raises:
        UnderstudyError: it is not there any more.
    """
    return {
        "plugin": plugin_called(generator.plugin).identity,
        "config": generator.config,
        "annotation": generator.annotation,
    }


def train_plugged(context: Context) -> dict[str, Any]:
    """Trains the plug-in of a `generator` job; the result is the folder `model`.

    Raises:
        UnderstudyError: another version than planned is installed, several machines, or what the plug-in raises.
    """
    from understudy.generators.plugin_run import train_plugin
    from understudy.io.files import read_json
    from understudy.slices import SliceSet
    from understudy.study.stages.subsets import training_rows

    spec = context.spec
    name, planned = spec["plugin"]["name"], spec["plugin"]
    if plugin_called(name).identity != planned:
        raise UnderstudyError(
            f"the plug-in {name} is not the one that was planned (version {planned['version']})",
            where=context.folder,
            fix="run the study again: it is planned anew",
        )
    if context.nodes > 1:
        raise UnderstudyError(f"the plug-in {name} is trained by one process", fix="leave --nodes out")
    slices = SliceSet.open(context.input("prepare") / "slices")
    model = train_plugin(
        slices,
        training_rows(slices, spec.get("subset")),
        name,
        spec["config"],
        context.folder / "model",
        spec["annotation"],
        spec["seed"],
        context.device,
    )
    return {"weights_sha256": read_json(model / "config.json")["content"], "plugin": planned}
