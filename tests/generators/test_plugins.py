"""Plug-in generators: found without being imported, checked, trained on training patients only, reproducible."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from plugged import declare_plugin
from understudy.errors import UnderstudyError
from understudy.generators.folder import snapshot_folder
from understudy.generators.joint import encode
from understudy.generators.membership import MembershipScores, supports_membership_inference
from understudy.generators.plugins import BLOCK, PluginType, TrainingSlices, plugin_errors
from understudy.generators.registry import installed_plugins, list_plugins, load_generator, plugin_type, recipe_text
from understudy.generators.sample import sample_set
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "NCR", 2: "ED", 4: "ET"})


@pytest.fixture
def slices(tmp_path: Path) -> SliceSet:
    """24 slices of 16 x 16 pixels and two channels: 16 of two training patients, 8 of a test patient."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 2, 16, 16), np.uint8)
    labels = rng.integers(0, 4, (24, 16, 16), np.uint8)
    writer = SliceWriter(tmp_path / "real", ["T1w", "FLAIR"], CLASSES, 16, (1.0, 1.0, 1.0), ("L", "P"), {"of": 1})
    rows = [{"id": f"p{i // 8}_z{i % 8}", "subject": f"p{i // 8}", "z": i % 8,
             "split": "test" if i >= 16 else "train"} for i in range(24)]  # fmt: skip
    writer.append(images, labels, rows)
    return writer.close()


def trained(slices: SliceSet, out: Path, **changes: Any) -> Path:
    words: dict[str, Any] = {"name": "principal", "fields": {"components": 5}, "seed": 3, **changes}
    return plugin_type(words.pop("name")).train(slices, slices.rows(split="train"), folder=out, device="cpu", **words)


def test_plugins_are_listed_without_being_imported(example_plugin: Path) -> None:
    assert installed_plugins()["principal"].value == "principal:Principal"
    assert "principal" in list_plugins()
    assert "principal" in recipe_text("quick")
    assert "principal" not in sys.modules


def test_a_plugin_tells_who_it_is(example_plugin: Path) -> None:
    identity = plugin_type("principal").identity
    assert identity == {"name": "principal", "distribution": "understudy-principal", "version": "1"}


def test_without_a_version_of_its_own_the_packages_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, "class C:\n  def train(): ...\n  def sample(): ...\n", version="7.1")
    assert plugin_type("bad").version == "7.1"


def test_an_unknown_plugin_names_the_installed_ones(example_plugin: Path) -> None:
    with pytest.raises(UnderstudyError, match="'principle'") as e:
        plugin_type("principle")
    assert "did you mean principal?" in str(e.value)


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str = "bad", version: str = "1") -> None:
    (tmp_path / "bad_plugin.py").write_text(code)
    declare_plugin(tmp_path, name, "bad_plugin:C", version)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_plugin", raising=False)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no jax here')", r"bad cannot be imported \(ImportError: no jax here\)"),
        ("D = 1", r"bad cannot be imported \(AttributeError"),
        ("class C:\n  def sample(): ...", "bad has no train"),
        ("def C(): ...\nC.train = C.sample = C", "bad is no class"),
        ("class C:\n  Config = dict\n  def train(): ...\n  def sample(): ...", r"bad has no Config \(a pydantic"),
    ],
)
def test_what_is_no_plugin_is_named(code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, code)
    with pytest.raises(UnderstudyError, match=said):
        plugin_type("bad")


def test_the_name_of_a_built_in_generator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, "class C: ...", name="diffusion")
    with pytest.raises(UnderstudyError, match="built-in"):
        plugin_type("diffusion")


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        ({"component": 3}, ("component",), r"principal \(its settings: components\)"),
        ({"components": 0}, ("components",), r"equal to 1 \(a setting"),
    ],
)
def test_settings_are_checked_by_the_plugins_own_model(
    fields: dict[str, Any], path: tuple[str, ...], said: str, example_plugin: Path
) -> None:
    plugin = plugin_type("principal")
    with pytest.raises(ValidationError) as error:
        plugin.configured(fields)
    where, what = plugin.settings_problem(error.value)
    assert where == path
    assert re.search(said, what)


def test_it_is_shown_training_patients_only_as_joint_images(slices: SliceSet) -> None:
    shown = TrainingSlices(slices, slices.rows(split="train"))
    images, labels = slices.read(np.arange(16))
    wanted = encode(images, labels, CLASSES).numpy()
    assert shown.shape == (16, 3, 16, 16) == np.asarray(shown).shape
    assert len(shown) == len(list(shown)) == 16
    assert set(shown.subjects) == {"p0", "p1"}
    np.testing.assert_array_equal(np.asarray(shown), wanted)
    np.testing.assert_array_equal(shown[3], wanted[3])
    np.testing.assert_array_equal(shown[[5, 2]], wanted[[5, 2]])
    np.testing.assert_array_equal(shown[-2:], wanted[-2:])
    with pytest.raises(IndexError):
        shown[16]


def test_the_example_reproduces_mean_and_covariance(slices: SliceSet, tmp_path: Path, example_plugin: Path) -> None:
    """Independent reference: with all components, samples (before the cut at -1 and 1) have the data's moments."""
    shown = TrainingSlices(slices, slices.rows(split="train"))
    quiet = np.asarray(shown) * 0.05  # far from the cut
    implementation: Any = plugin_type("principal").implementation

    class Shown(list):  # type: ignore[type-arg]
        shape = shown.shape

    implementation.train(Shown(quiet), implementation.Config(components=16), tmp_path, 0, "cpu")
    drawn = implementation(tmp_path, "cpu").sample(20_000, 1).reshape(20_000, -1)
    flat = quiet.reshape(16, -1)
    assert np.abs(drawn.mean(0) - flat.mean(0)).max() < 0.002
    # variance along a direction of the data, closed form: that of its projections
    direction = flat[0] - flat[1]
    assert np.isclose((drawn @ direction).var(), (flat @ direction).var(), rtol=0.05)


def test_trained_sampled_continued_and_refused_like_a_network(
    slices: SliceSet, tmp_path: Path, example_plugin: Path
) -> None:
    model = trained(slices, tmp_path / "model")
    assert trained(slices, model) == model  # finished: left alone
    with pytest.raises(UnderstudyError, match="another training"):
        trained(slices, model, seed=4)
    assert not supports_membership_inference(model)
    few, many = (sample_set(model, n, 5, tmp_path / f"s{n}", progress=False, device="cpu") for n in (70, 300))
    for one, other in zip(few.read(np.arange(70)), many.read(np.arange(70)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert few.index["generator"][0].startswith("principal-")
    assert many.channels == ("T1w", "FLAIR")
    generator = load_generator(model)[0]
    whole = generator.sample(3 * BLOCK, 5)
    assert (generator.sample(10, 5, start=BLOCK - 4) == whole[BLOCK - 4 : BLOCK + 6]).all()
    assert not (generator.sample(10, 6) == whole[:10]).all()
    with pytest.raises(UnderstudyError, match="truncation"):
        generator.sample(1, 0, psi=0.5)
    (model / "plugin" / "m.npz").write_bytes(b"x")
    with pytest.raises(UnderstudyError, match="files of the plug-in"):
        sample_set(model, 70, 6, tmp_path / "damaged", progress=False)


def test_another_version_neither_samples_nor_passes_for_the_same_training(
    slices: SliceSet, tmp_path: Path, example_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(slices, tmp_path / "model")
    monkeypatch.setattr(plugin_type("principal").implementation, "version", "2")
    with pytest.raises(UnderstudyError, match=r"version 1.*but 2"):
        sample_set(model, 70, 5, tmp_path / "s", progress=False)
    with pytest.raises(UnderstudyError, match="another training"):
        trained(slices, model)


BAD_SAMPLES = """
import numpy as np
class C:
    version = "1"
    def __init__(self, folder, device): ...
    @staticmethod
    def train(slices, config, folder, seed, device): (folder / "x").write_text("x")
    def sample(self, count, seed): {body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return np.zeros((count, 2, 16, 16))", r"\(64, 2, 16, 16\), not \(64, 3, 16, 16\)"),
        ("return np.full((count, 3, 16, 16), np.nan)", "NaN"),
        ("return np.full((count, 3, 16, 16), 200.0)", "200 to 200"),
        ("return np.full((count, 3, 16, 16), 0.5)", "0.5 to 0.5"),
        ("return 1 / 0", r"(?s)bad 1 .*ZeroDivisionError.*bad_plugin.py, line 8, in sample"),
    ],
)
def test_what_cannot_be_images_is_named(
    body: str, said: str, slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, monkeypatch, BAD_SAMPLES.format(body=body))
    model = trained(slices, tmp_path / "model", name="bad", fields={})
    with pytest.raises(UnderstudyError, match=said):
        sample_set(model, 1, 0, tmp_path / "made", progress=False, device="cpu")


def test_a_training_that_leaves_nothing_is_no_training(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = BAD_SAMPLES.replace('(folder / "x").write_text("x")', "...").format(body="...")
    broken(tmp_path, monkeypatch, code)
    with pytest.raises(UnderstudyError, match="bad has written nothing"):
        trained(slices, tmp_path / "model", name="bad", fields={})
    assert not (tmp_path / "model" / "config.json").exists()


def test_out_of_memory_stays_what_it_is_with_a_note() -> None:
    with pytest.raises(MemoryError) as error, plugin_errors(PluginType("mine", None, "", "3"), "train"):
        raise MemoryError
    assert error.value.__notes__ == ["in the plug-in generator mine 3 (train)"]


EVERYTHING = """
import numpy as np
from pydantic import BaseModel
class C:
    version = "1"
    recipes = {"quick": {"width": 2}}
    class Config(BaseModel):
        width: int = 4
    @staticmethod
    def train(slices, config, folder, seed, device, snapshots=None):
        for path in (folder, *(snapshots or {}).values()):
            np.save(path / "mean.npy", np.asarray(slices).mean(0) - 0.1 * (path != folder))
    @staticmethod
    def cost(config, shape, slices):
        return {"training": 1e9 * config.width, "sample": 1e6, "weights": int(np.prod(shape))}
    def __init__(self, folder, device):
        self.mean = np.load(folder / "mean.npy")
    def sample(self, count, seed):
        return np.broadcast_to(np.clip(self.mean, -1, 1), (count, *self.mean.shape)).copy()
    def membership_scores(self, joint):
        return -np.abs(joint - self.mean).mean((1, 2, 3))
"""


def test_a_plugin_may_have_all_that_built_in_generators_have(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, monkeypatch, EVERYTHING)
    plugin = plugin_type("bad")
    assert plugin.recipe("quick") == {"width": 2}
    assert yaml.safe_load(recipe_text("quick", "bad")) == {"bad": {"width": 2}}
    with pytest.raises(UnderstudyError, match="paper") as error:
        plugin.recipe("paper")
    assert "quick" in str(error.value.fix)
    assert plugin.cost({"width": 3}, (3, 16, 16), 16) == {"training": 3e9, "sample": 1e6, "weights": 768}
    model = trained(slices, tmp_path / "model", name="bad", fields={}, keep_weights_kimg=[1.0])
    early = snapshot_folder(model, 1.0)
    both = sample_set([model, early], 4, 0, tmp_path / "both", progress=False, device="cpu")
    assert both.index["generator"].nunique() == 2
    assert supports_membership_inference(model)
    scores, _ = MembershipScores(model)(slices, np.arange(24))
    mean = np.asarray(TrainingSlices(slices, slices.rows(split="train"))).mean(0)
    joint = encode(*slices.read(np.arange(24)), CLASSES).numpy()
    assert scores == pytest.approx(-np.abs(joint - mean).mean((1, 2, 3)), rel=1e-5)
    assert set(MembershipScores(model).weights) == {"plugin"}


def test_a_plugin_need_not_have_more_than_it_must(slices: SliceSet, tmp_path: Path, example_plugin: Path) -> None:
    plugin = plugin_type("principal")
    assert plugin.cost({}, (3, 16, 16), 16) is None
    assert not plugin.takes_snapshots
    model = trained(slices, tmp_path / "model")
    with pytest.raises(UnderstudyError, match="cannot score") as error:
        MembershipScores(model)(slices, np.arange(2))
    assert "membership_scores" in str(error.value.fix)
