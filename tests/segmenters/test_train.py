"""A training that goes on from another's weights: which these are, names and not positions, refusals."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from safetensors.torch import load_file

import understudy.segmenters.train as module
from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import sha256_file
from understudy.io.seals import Damaged
from understudy.runtime.checkpoints import Checkpoints, History
from understudy.segmenters.augment import AugmentConfig, draw
from understudy.segmenters.config import MixtureConfig, SegmenterTrainingConfig, build_model, paper_training
from understudy.segmenters.mixing import Mixture
from understudy.segmenters.predict import load, predict
from understudy.segmenters.swin import SwinConfig
from understudy.segmenters.train import train, train_segmenter
from understudy.segmenters.unet import UNetConfig
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

TINY = UNetConfig(width=4, max_width=8)
TINY_SWIN = SwinConfig(
    size="mini", embed=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), head_channels=8, auxiliary_channels=4
)


def short(**changes: object) -> SegmenterTrainingConfig:
    base: dict[str, object] = {"samples": 64, "batch": 4, "momentum": 0.9, "validations": 4, "precision": "fp32"}
    return SegmenterTrainingConfig(**(base | changes))


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "segmenter.safetensors")


def without_time(folder: Path) -> list[dict[str, object]]:
    timed = ("seconds", "samples_per_second", "waiting_share")
    return [{k: v for k, v in line.items() if k not in timed} for line in History.read(folder / "history.jsonl")]


def test_it_learns(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    config = short(samples=960, batch=8, validations=6, mixture=MixtureConfig(foreground_fraction=0.75))
    folder = train_segmenter(real, None, TINY, config, tmp_path / "run", volumes, "cpu", progress=False)
    history = History.read(folder / "history.jsonl")
    dice = [line["val_dice"] for line in history if "val_dice" in line]
    losses = [line["loss"] for line in history]
    assert len(dice) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert max(dice) > 0.7
    result = record(folder)
    assert result["outcome"] == "trained"
    assert result["best_val_dice"] == max(dice)
    assert result["best_samples"] in [line["samples"] for line in history if line.get("val_dice") == max(dice)]
    assert result["sources"]["real"]["patients"] == 6
    assert result["channels"] == ["T1w", "FLAIR"]
    assert not list(folder.glob("checkpoint*"))


def test_the_schedule_is_the_papers() -> None:
    config = SegmenterTrainingConfig(samples=3200, batch=32)
    assert (config.lr, config.momentum, config.weight_decay, config.clip) == (0.05, 0.99, 3e-5, 12)
    steps = config.steps(7)
    assert steps == 100
    assert config.rate(0, steps) == 0.05
    assert config.rate(50, steps) == pytest.approx(0.05 * 0.5**0.9)
    assert 0 < config.rate(99, steps) < 0.001
    warm = SegmenterTrainingConfig(samples=3200, batch=32, warmup_samples=320)
    assert warm.rate(4, 100) == pytest.approx(0.025 * 0.96**0.9)


@pytest.mark.parametrize(("kind", "precision"), [("unet", "fp32"), ("unet", "bf16"), ("swin", "fp32")])
def test_an_interrupted_run_ends_in_the_same_weights(
    real: SliceSet, synthetic: SliceSet, volumes: VolumeSet, tmp_path: Path, kind: str, precision: str
) -> None:
    given = {"samples": 60 if kind == "swin" else 100, "batch": 4, "precision": precision, "validations": 4}
    given |= {"checkpoint_seconds": 1e-6}  # a checkpoint at every step
    if kind == "swin":  # with its dropout and skipped blocks
        model, config = TINY_SWIN, paper_training("swin", warmup_samples=20, **given)
    else:
        model, config = TINY, short(**given)

    def run(name: str) -> Path:
        return train_segmenter(real, synthetic, model, config, tmp_path / name, volumes, "cpu", progress=False)

    whole = run("whole")
    real_step, calls = module.Training.train_step, []

    def broken(self: module.Training, *arguments: object) -> torch.Tensor:
        calls.append(self.step)
        if len(calls) in (7, 12):
            raise KeyboardInterrupt  # like a kill: nothing is saved on the way out
        return real_step(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Training, "train_step", broken)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run("broken")
        run("broken")
    assert calls[7] == 6  # went on where the last checkpoint was
    expected, got = weights(whole), weights(tmp_path / "broken")
    assert all(torch.equal(expected[k], got[k]) for k in expected)
    assert without_time(whole) == without_time(tmp_path / "broken")


def test_sigterm_saves_and_leaves(real: SliceSet, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = short(samples=400_000)

    def ask() -> None:
        while not (folder / "history.jsonl").is_file() or not History.read(folder / "history.jsonl"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Interrupted):
        train_segmenter(real, None, TINY, config, folder, None, "cpu", progress=False)
    thread.join()
    saved = list(folder.glob("checkpoint-*.pt"))
    assert len(saved) == 1
    assert int(saved[0].stem.split("-")[1]) >= 80


def test_a_finished_folder_returns_at_once_and_refuses_another_training(
    real: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (real, None, TINY, short(samples=8), tmp_path / "run", None, "cpu", False)
    train_segmenter(*arguments)
    assert record(tmp_path / "run")["best_samples"] == 8  # no validation patients: the last weights
    monkeypatch.setattr(module.Training, "run", lambda *_: pytest.fail("trained again"))
    before = (tmp_path / "run" / "segmenter.safetensors").stat().st_mtime_ns
    assert train_segmenter(*arguments) == tmp_path / "run"
    train_segmenter(*arguments[:3], short(samples=8, checkpoint_seconds=9), *arguments[4:])
    assert (tmp_path / "run" / "segmenter.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UnderstudyError, match="another training"):
        train_segmenter(*arguments[:3], short(samples=8, seed=1), *arguments[4:])


def test_a_half_written_result_is_finished(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    config = short(samples=16, checkpoint_seconds=1e-6)
    arguments = (real, None, TINY, config, tmp_path / "run", volumes, "cpu", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            train_segmenter(*arguments)
    assert not (tmp_path / "run" / "config.json").exists()
    before = weights(tmp_path / "run")
    train_segmenter(*arguments)
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert record(tmp_path / "run")["samples"] == 16


def test_a_loss_that_is_not_finite_is_recorded_as_a_collapse(
    real: SliceSet, volumes: VolumeSet, tmp_path: Path
) -> None:
    def explode(*_: object) -> torch.Tensor:
        return torch.tensor(math.nan, requires_grad=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "segmentation_loss", explode)
        folder = train_segmenter(real, None, TINY, short(samples=800), tmp_path / "run", volumes, "cpu", False)
    result, history = record(folder), History.read(folder / "history.jsonl")
    assert (result["outcome"], result["ended"]) == ("collapsed", "collapse")
    assert str(result["collapse"]).startswith("the loss was not finite (nan) within")
    assert result["samples"] < 800
    assert history[-1]["collapsed"] is True
    images, _ = real.read(np.arange(2))  # and the evaluation can score it
    assert torch.isfinite(load(folder, "cpu").probabilities(images)).all()
    assert all(torch.isfinite(t).all() for t in weights(folder).values())


def test_a_run_that_finds_nothing_is_recorded_as_a_collapse(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        blind = torch.zeros(1)
        patch.setattr(
            module.Segmenter, "probabilities", lambda self, images: torch.eye(2)[0][None, :, None, None].expand(
                len(images), 2, 16, 16) + blind)  # fmt: skip
        folder = train_segmenter(real, None, TINY, short(samples=8), tmp_path / "run", volumes, "cpu", False)
    assert record(folder)["outcome"] == "collapsed"
    assert "find nothing" in str(record(folder)["collapse"])
    assert record(folder)["ended"] == "budget"


def test_a_last_step_that_breaks_the_weights_is_a_collapse_too(real: SliceSet, tmp_path: Path) -> None:
    step = module.Training.train_step

    def break_last(self: module.Training, *arguments: object) -> torch.Tensor:
        loss = step(self, *arguments)  # type: ignore[arg-type]
        if self.step == self.steps - 1:
            torch.nn.utils.vector_to_parameters(torch.full((sum(p.numel() for p in self.network.parameters()),),
                                                           math.nan), self.network.parameters())  # fmt: skip
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Training, "train_step", break_last)
        folder = train_segmenter(real, None, TINY, short(samples=12), tmp_path / "run", None, "cpu", False)
    assert "not finite" in str(record(folder)["collapse"])
    assert all(torch.isfinite(t).all() for t in weights(folder).values())


def test_a_time_limit_ends_a_training_and_is_recorded(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    config = short(samples=400_000, max_minutes=1e-9)
    folder = train_segmenter(real, None, TINY, config, tmp_path / "run", volumes, "cpu", False)
    result = record(folder)
    assert (result["ended"], result["samples"], result["budget_samples"]) == ("time", 4, 400_000)
    assert result["best_val_dice"] is not None  # validated at its end all the same


def test_epochs_count_the_training_set(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    config = short(epochs=0.5, batch=4, samples=None)
    folder = train_segmenter(real, synthetic, TINY, config, tmp_path / "run", None, "cpu", False)
    assert record(folder)["samples"] == round((48 + 30) // 4 * 0.5) * 4


def test_synthetic_trainings_may_be_selected_on_synthetic_slices(
    real: SliceSet, synthetic: SliceSet, volumes: VolumeSet, tmp_path: Path
) -> None:
    def run(name: str, real_set: SliceSet | None, validation: str) -> dict[str, object]:
        config = short(samples=8, validation=validation)
        return record(train_segmenter(real_set, synthetic, TINY, config, tmp_path / name, volumes, "cpu", False))

    own = run("own", None, "same_as_training")
    assert own["validated_on"] == {"kind": "synthetic", "slices": 6}  # a fifth of 30
    assert own["sources"]["synthetic"]["slices"] == 24  # type: ignore[index]
    assert run("real", None, "real")["validated_on"] == {"kind": "real", "patients": 2}
    assert run("both", real, "same_as_training")["validated_on"] == {"kind": "real", "patients": 2}


def test_held_out_slices_are_never_drawn(synthetic: SliceSet) -> None:
    mixture = Mixture(None, synthetic, MixtureConfig(foreground_fraction=0.5), 0)
    _, held = mixture.hold_out(0.2, 1000)
    ((_, drawn),) = mixture.draw(np.arange(500))
    assert set(held) | set(drawn) == set(range(30))
    assert not set(held) & set(drawn)
    with pytest.raises(UnderstudyError, match="too few"):
        Mixture(None, synthetic, MixtureConfig(synthetic_count=2), 0).hold_out(0.2, 1000)


def test_no_patient_of_a_held_out_slice_is_drawn(tmp_path: Path) -> None:
    """A folder of images may say whose they are: 48 slices of 6 patients, in turn."""
    whole = toys.slice_set(tmp_path / "made", n=48)
    mixture = Mixture(None, whole, MixtureConfig(), 0)
    source, held = mixture.hold_out(0.04, 1000)
    assert (len(held), mixture.slices) == (2, 32)
    ((_, drawn),) = mixture.draw(np.arange(100))
    of = whole.index["subject"].to_numpy()
    assert set(of[drawn]) == set(of) - set(of[held])
    assert source.slices is whole


def test_a_swin_trains_and_is_loaded_again(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    given = {"samples": 800, "batch": 8, "lr": 6e-3, "warmup_samples": 80, "validations": 4}
    config = paper_training("swin", precision="fp32", mixture=MixtureConfig(foreground_fraction=0.75), **given)
    folder = train_segmenter(real, None, TINY_SWIN, config, tmp_path / "run", volumes, "cpu", False)
    losses = [line["loss"] for line in History.read(folder / "history.jsonl")]
    assert losses[-1] < 0.7 * losses[0]
    assert record(folder)["best_val_dice"] > 0.3  # type: ignore[operator]
    model = load(folder, "cpu")
    assert model.record["model"]["kind"] == "swin"
    images, _ = real.read(np.arange(3))
    assert model.probabilities(images).sum(1).allclose(torch.ones(3, 16, 16))
    with pytest.raises(UnderstudyError, match="batch"):
        train_segmenter(real, None, TINY_SWIN, paper_training("swin", batch=1), tmp_path / "one", None)


@pytest.mark.parametrize("config", [TINY, TINY_SWIN], ids=["unet", "swin"])
def test_a_repeats_seed_changes_weights_order_and_augmentation(real: SliceSet, config: UNetConfig | SwinConfig) -> None:
    numbers = np.arange(16)
    weights = [torch.cat([p.flatten() for p in build_model(config, 2, 2, 16, seed).parameters()]) for seed in (0, 1)]
    orders = [Mixture(real, None, MixtureConfig(), seed).draw(numbers)[0][1] for seed in (0, 1)]
    plans = [draw(AugmentConfig(), seed, numbers) for seed in (0, 1)]
    assert not torch.equal(*weights)
    assert not np.array_equal(*orders)
    assert not np.array_equal(plans[0].angle, plans[1].angle)
    assert not np.array_equal(plans[0].noise_seed, plans[1].noise_seed)


def test_seeds_change_everything_and_the_global_state_nothing(real: SliceSet, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)
        torch.rand(5)
        np.random.seed(seed + 3)  # noqa: NPY002
        folder = train_segmenter(
            real, None, TINY, short(samples=8, seed=seed), tmp_path / name, None, "cpu", progress=False
        )
        results.append(weights(folder))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert not torch.equal(*(next(iter(r.values())) for r in (results[0], results[2])))


def test_a_checkpoint_of_another_training_is_refused(real: SliceSet, tmp_path: Path) -> None:
    Checkpoints(tmp_path / "run", "something else").save({"step": 1}, 4)
    with pytest.raises(UnderstudyError, match="another training"):
        train_segmenter(real, None, TINY, short(), tmp_path / "run", None, "cpu", progress=False)


def test_without_augmentation(real: SliceSet, tmp_path: Path) -> None:
    config = short(samples=8, augment=AugmentConfig(enabled=False))
    folder = train_segmenter(real, None, TINY, config, tmp_path / "run", None, "cpu", progress=False)
    assert record(folder)["training"]["augment"]["enabled"] is False


def test_in_memory_it_is_the_same_training(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    """Validated on slices: selected on them, and they are not part of the training."""
    arguments = (real, None, TINY, short(samples=40, validations=2))
    held_out = synthetic.subset(range(6))
    model = train(*arguments, validation=held_out, progress=False)
    folder = train_segmenter(*arguments, tmp_path / "run", held_out, progress=False)
    expected, got = weights(folder), model.network.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert model.record["validated_on"] == {"kind": "real", "slices": 6}
    assert model.record["outcome"] == record(folder)["outcome"]
    assert model.record["best_val_dice"] == record(folder)["best_val_dice"]
    images, _ = real.read(np.arange(3))
    assert predict(model, images).shape == (3, 16, 16)


# --- continuing from another's weights ---


def fine_tuning(**changes: object) -> SegmenterTrainingConfig:
    return short(**({"samples": 32, "validations": 2} | changes))


@pytest.fixture(scope="module")
def pretrained(synthetic: SliceSet, volumes: VolumeSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    return train_segmenter(None, synthetic, TINY, fine_tuning(), folder, volumes, "cpu", progress=False)


def test_no_step_at_all_leaves_the_weights_and_the_order_of_channels(
    real: SliceSet, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one step with a rate of almost nothing: what comes out is what went in
    config = fine_tuning(samples=4, lr=1e-12, momentum=0, weight_decay=0)
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
    config = fine_tuning(checkpoint_seconds=1e-6, mixture=MixtureConfig(patient_count=2))

    def run(name: str) -> Path:
        return train_segmenter(real, None, TINY, config, tmp_path / name, volumes, "cpu", False, initial=pretrained)

    unbroken = run("unbroken")
    assert json.loads((unbroken / "config.json").read_text())["sources"]["real"]["patients"] == 2
    saved = Checkpoints.save

    def save(self: Checkpoints, state: object, number: int, history: str) -> None:
        saved(self, state, number, history)  # type: ignore[arg-type]
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
    config, folder = fine_tuning(samples=4), tmp_path / "run"
    train_segmenter(real, None, TINY, config, folder, None, "cpu", False, pretrained)
    with pytest.raises(UnderstudyError, match="another training"):
        train_segmenter(real, None, TINY, config, folder, None, "cpu", False)


def test_what_cannot_be_gone_on_from_is_refused(real: SliceSet, pretrained: Path, tmp_path: Path) -> None:
    def go(start: Path, model: UNetConfig = TINY) -> None:
        train_segmenter(real, None, model, fine_tuning(), tmp_path / "run", None, "cpu", False, start)

    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        go(tmp_path)
    with pytest.raises(UnderstudyError, match="another network"):
        go(pretrained, UNetConfig(width=8, max_width=8))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((pretrained / "config.json").read_bytes())
    (damaged / "segmenter.safetensors").write_bytes(b"nothing")
    with pytest.raises(UnderstudyError) as caught:
        go(damaged)
    assert caught.value.where == str(damaged / "segmenter.safetensors")
    same = UNetConfig(filters=(4, 8, 8))  # weights for any resolution
    other = train_segmenter(real, None, same, fine_tuning(samples=4), tmp_path / "other", None, "cpu", False)
    record = json.loads((other / "config.json").read_text()) | {"resolution": 64}
    (other / "config.json").write_text(json.dumps(record))
    with pytest.raises(UnderstudyError, match="64 pixels"):
        go(other, same)


def test_counted_patients_are_the_first_of_the_same_order_as_fractions(real: SliceSet) -> None:
    def patients(**fields: object) -> set[str]:
        mixture = Mixture(real, None, MixtureConfig(subset_seed=5, **fields), 0)  # type: ignore[arg-type]
        source = mixture._sources[0]
        return set(real.index["subject"].iloc[source.rows].astype(str))

    found = [patients(patient_count=n) for n in (1, 3, 6)]
    assert [len(names) for names in found] == [1, 3, 6]
    assert found[0] < found[1] < found[2]
    assert patients(patient_fraction=0.5) == found[1]
    with pytest.raises(UnderstudyError, match=r"7 .* 6"):
        patients(patient_count=7)
    assert "patient_count" not in MixtureConfig().model_dump()
    with pytest.raises(ValueError, match="either `patient_count`"):
        MixtureConfig(patient_count=2, patient_fraction=0.5)


def test_weights_that_were_changed_are_neither_used_nor_taken_for_finished(real: SliceSet, tmp_path: Path) -> None:
    folder = train_segmenter(real, None, TINY, short(), tmp_path / "run", None, "cpu", progress=False)
    whole = (folder / "segmenter.safetensors").read_bytes()
    (folder / "segmenter.safetensors").write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    with pytest.raises(Damaged, match="changed or damaged"):
        load(folder, "cpu")
    train_segmenter(real, None, TINY, short(), folder, None, "cpu", progress=False)
    assert (folder / "segmenter.safetensors").read_bytes() == whole
    assert record(folder)["sha256"] == {"segmenter.safetensors": sha256_file(folder / "segmenter.safetensors")}


@pytest.mark.parametrize("config", [TINY, TINY_SWIN], ids=["unet", "swin"])
def test_a_step_does_not_wait_for_its_device(
    real: SliceSet, config: UNetConfig | SwinConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the "meta" device any look at a value is an error; see also generators/training/test_no_sync.py."""
    monkeypatch.setattr(module.Training, "_weights", lambda self: {})  # copied to the CPU, before the first step
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())  # which does not know the device
    for name in ("Adam", "AdamW", "SGD"):  # there are no fused kernels for it
        original = getattr(torch.optim, name)
        monkeypatch.setattr(torch.optim, name, lambda *a, _o=original, **k: _o(*a, **k | {"fused": False}))
    settings = short(clip=1.0)
    mixture = Mixture(real, None, MixtureConfig(), settings.seed)
    training = module.Training(mixture, config, settings, None, torch.device("meta"))
    numbers = np.arange(settings.batch)
    for _ in range(2):
        loss = training.train_step(numbers, *mixture.read(numbers))
    assert (loss.device.type, loss.shape) == ("meta", ())
