"""A training that goes on from another's weights: which these are, names and not positions, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import sha256_file
from understudy.runtime.checkpoints import Checkpoints
from understudy.segmenters import train as module
from understudy.segmenters.mixing import Mixture
from understudy.segmenters.mixture_config import MixtureConfig
from understudy.segmenters.train import SegmenterTrainingConfig, train_segmenter
from understudy.segmenters.unet import UNetConfig
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

TINY = UNetConfig(width=4, max_width=8)


def short(**changes: object) -> SegmenterTrainingConfig:
    base: dict[str, object] = {"samples": 32, "batch": 4, "momentum": 0.9, "validations": 2}
    return SegmenterTrainingConfig(**(base | {"precision": "fp32"} | changes))


@pytest.fixture(scope="module")
def pretrained(synthetic: SliceSet, volumes: VolumeSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    return train_segmenter(None, synthetic, TINY, short(), folder, volumes, "cpu", progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "segmenter.safetensors")


def test_no_step_at_all_leaves_the_weights_and_the_order_of_channels(
    real: SliceSet, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one step with a rate of almost nothing: what comes out is what went in
    config = short(samples=4, lr=1e-12, momentum=0, weight_decay=0)
    folder = train_segmenter(real, None, TINY, config, tmp_path / "run", None, "cpu", False, pretrained)
    before, after = weights(pretrained), weights(folder)
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)
    record = json.loads((folder / "config.json").read_text())
    assert record["channels"] == ["FLAIR", "T1w"]  # the pre-training's; the real slices have T1w first
    assert record["initial"]["weights_sha256"] == sha256_file(pretrained / "segmenter.safetensors")
    assert "initial" not in json.loads((pretrained / "config.json").read_text())


def test_slices_are_read_by_the_names_of_the_network(real: SliceSet) -> None:
    as_they_are = Mixture(real, None, MixtureConfig(), 0)
    swapped = Mixture(real, None, MixtureConfig(), 0, (("FLAIR", "T1w"), as_they_are.classes))
    numbers = np.arange(6)
    (one, labels), (other, same) = as_they_are.read(numbers), swapped.read(numbers)
    np.testing.assert_array_equal(one, other[:, ::-1])
    np.testing.assert_array_equal(labels, same)


def test_an_interrupted_fine_tuning_ends_in_the_same_weights(
    real: SliceSet, volumes: VolumeSet, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(checkpoint_seconds=1e-6, mixture=MixtureConfig(patient_count=2))

    def run(name: str) -> Path:
        return train_segmenter(real, None, TINY, config, tmp_path / name, volumes, "cpu", False, initial=pretrained)

    unbroken = run("unbroken")
    assert json.loads((unbroken / "config.json").read_text())["sources"]["real"]["patients"] == 2
    saved = Checkpoints.save

    def save(self: Checkpoints, state: object, number: int) -> None:
        saved(self, state, number)  # type: ignore[arg-type]
        if number == 16:
            raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(module.Checkpoints, "save", save)
        with pytest.raises(Interrupted):
            run("broken")
    broken = run("broken")
    assert all(torch.equal(t, weights(broken)[name]) for name, t in weights(unbroken).items())
    assert any(not torch.equal(t, weights(pretrained)[name]) for name, t in weights(unbroken).items())


def test_the_start_is_part_of_a_trainings_identity(real: SliceSet, pretrained: Path, tmp_path: Path) -> None:
    config, folder = short(samples=4), tmp_path / "run"
    train_segmenter(real, None, TINY, config, folder, None, "cpu", False, pretrained)
    with pytest.raises(UnderstudyError, match="another training"):
        train_segmenter(real, None, TINY, config, folder, None, "cpu", False)


def test_what_cannot_be_gone_on_from_is_refused(real: SliceSet, pretrained: Path, tmp_path: Path) -> None:
    def go(start: Path, model: UNetConfig = TINY) -> None:
        train_segmenter(real, None, model, short(), tmp_path / "run", None, "cpu", False, start)

    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        go(tmp_path)
    with pytest.raises(UnderstudyError, match="another network"):
        go(pretrained, UNetConfig(width=8, max_width=8))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((pretrained / "config.json").read_bytes())
    (damaged / "segmenter.safetensors").write_bytes(b"nothing")
    with pytest.raises(UnderstudyError, match="cannot be used"):
        go(damaged)
    other = json.loads((pretrained / "config.json").read_text()) | {"resolution": 64}
    (damaged / "config.json").write_text(json.dumps(other))
    with pytest.raises(UnderstudyError, match="sees 64 pixels"):
        go(damaged)


def test_counted_patients_are_the_first_of_the_same_order_as_fractions(real: SliceSet) -> None:
    def patients(**fields: object) -> set[str]:
        mixture = Mixture(real, None, MixtureConfig(subset_seed=5, **fields), 0)  # type: ignore[arg-type]
        (source, _, _) = mixture._parts[0]
        return set(real.index["subject"].iloc[source.rows].astype(str))

    found = [patients(patient_count=n) for n in (1, 3, 6)]
    assert [len(names) for names in found] == [1, 3, 6]
    assert found[0] < found[1] < found[2]
    assert patients(patient_fraction=0.5) == found[1]
    with pytest.raises(UnderstudyError, match="7 training patients wanted, but there are 6"):
        patients(patient_count=7)
    assert "patient_count" not in MixtureConfig().model_dump()
    with pytest.raises(ValueError, match="either `patient_count`"):
        MixtureConfig(patient_count=2, patient_fraction=0.5)
