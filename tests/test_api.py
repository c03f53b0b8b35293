"""The public names of `import understudy as us`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import understudy as us

R = 16


def blobs(patients: int = 10, slices: int = 3) -> us.SliceSet:
    """Bright discs (the lesion) on noise."""
    rng = np.random.default_rng(0)
    n = patients * slices
    y, x = np.mgrid[:R, :R]
    centres = rng.integers(5, R - 5, (n, 2, 1, 1))
    labels = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 9).astype(np.uint8)
    images = (60 + rng.normal(0, 5, (n, 1, R, R)) + 120 * labels[:, None]).clip(0, 255).astype(np.uint8)
    return us.SliceSet.from_arrays(images, labels, patients=np.repeat(np.arange(patients), slices), channels=["FLAIR"])


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, understudy; print([m for m in ('torch', 'pandas', 'zarr', 'matplotlib') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(us, name) is not None for name in us.__all__)
    with pytest.raises(AttributeError):
        us.no_such_name  # noqa: B018


def test_a_generator_trains_samples_and_opens(tmp_path: Path) -> None:
    real = blobs()
    gen = us.StyleGAN2(real.channels, R, channel_base=64).fit(real, kimg=0.05, seed=3, out=tmp_path / "model", batch=8)
    fake = gen.sample(5, seed=1)
    assert (fake.images.shape, fake.channels, fake.classes) == ((5, 1, R, R), real.channels, real.classes)
    for psi in (7, 0, "1"):
        with pytest.raises(us.UnderstudyError, match="psi"):
            gen.sample(1, psi=psi)
    with pytest.raises(us.UnderstudyError, match="StyleGAN 2 is sampled in one pass"):
        gen.sample(1, sampler="ddim")  # type: ignore[arg-type]
    opened = us.Generator.open(tmp_path / "model")
    assert isinstance(opened, us.StyleGAN2)
    np.testing.assert_array_equal(opened.sample(2, seed=1).images, fake.images[:2])


def test_a_generator_refuses_other_slices_and_sampling_before_training() -> None:
    gen = us.Diffusion(["T1w"], R)
    with pytest.raises(us.UnderstudyError):
        gen.fit(blobs(), kimg=0.01)
    with pytest.raises(us.UnderstudyError):
        gen.sample(1)


UNET = {"samples": 480, "width": 8, "batch": 8, "optimiser": "adamw", "lr": 0.003}


def test_real_slices_as_synthetic_ones_have_a_relative_dice_near_one() -> None:
    real = blobs()
    train, _, test = real.split(seed=3)
    result = us.evaluate(real=real, synthetic=train, segmenter=us.UNet(**UNET))
    assert result.relative_dice == pytest.approx(1, abs=0.15)  # the same slices, drawn in another order
    assert result.dice["real"] > 0.5
    assert set(result.rows["subject"]) == set(test.index["subject"])  # of the split that was made, not of another


def test_a_share_of_nothing_is_no_answer() -> None:
    real = blobs()
    result = us.evaluate(real=real, synthetic=real, segmenter=us.UNet(samples=8, width=8))
    assert np.isnan(result.relative_dice)
    assert "not answered" in repr(result)


def test_sets_that_do_not_fit_are_refused_before_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("understudy.api.Segmenter.fit")
    real = blobs()
    images, labels, patients = real.images, real.labels, real.index["subject"]
    for other in (
        us.SliceSet.from_arrays(images[..., ::2, ::2], labels[:, ::2, ::2], channels=real.channels),
        us.SliceSet.from_arrays(images, labels, channels=["T1w"]),
        us.SliceSet.from_arrays(images, labels, channels=real.channels, classes=["tumour"]),
    ):
        with pytest.raises(us.UnderstudyError, match="synthetic"):
            us.evaluate(real=real, synthetic=other)
    split = {"split": np.repeat(["train", "val", "test"], 10)}
    recorded = us.SliceSet.from_arrays(images, labels, patients=patients, index=pd.DataFrame(split))
    part = recorded.split()[0]
    with pytest.raises(us.UnderstudyError, match="only the part train"):
        us.evaluate(real=part, synthetic=part)
    with pytest.raises(us.UnderstudyError, match="no held-out slices: the set given holds only the part train"):
        us.audit(train=part, held_out=part, synthetic=part)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda real: us.StyleGAN2(real.channels, R, widht=8),
        lambda real: us.StyleGAN2(real.channels, R, recipe="fast"),  # type: ignore[arg-type]
        lambda real: us.StyleGAN2(real.channels, 33),
        lambda real: us.StyleGAN2("T1w", R),
        lambda real: us.Generator(real.channels, R, kind="stylegan"),
        lambda real: us.Generator(real.channels, R),
        lambda real: us.StyleGAN2(real.channels, R).fit(real, kimg=0),
        lambda real: us.StyleGAN2(real.channels, R).fit(real, learning_rate=1),
        lambda real: us.StyleGAN2(real.channels, R).fit(real.images),
        lambda real: us.UNet(widht=3).fit(real),
        lambda real: us.UNet().predict(real.images),
        lambda real: us.evaluate(real=real, synthetic=real.images),
        lambda real: us.evaluate(real=real, synthetic=real, segmenter=us.UNet),
        lambda real: us.audit(train=real.images, held_out=real, synthetic=real),
        lambda real: us.audit(train=real, held_out=real, synthetic=real, quantil=0.9),
        lambda real: us.phantoms(patients=0),
        lambda real: us.phantoms(resolution=20),
    ],
)
def test_mistakes_are_one_kind_of_error(mistake: Callable[[us.SliceSet], object]) -> None:
    with pytest.raises(us.UnderstudyError):
        mistake(blobs())


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [
        (lambda real: us.StyleGAN2(real.channels, R, channel_bas=8), "channel_base"),
        (lambda real: us.StyleGAN2(real.channels, R).fit(real, kimgs=1), "kimg"),
        (lambda real: us.UNet(widht=3).fit(real), "width"),
        (lambda real: us.audit(train=real, held_out=real, synthetic=real, quantil=0.9), "quantile"),
        (lambda real: us.read(".", "new", resoluton=16), "resolution"),
    ],
)
def test_an_unknown_field_names_the_nearest(mistake: Callable[[us.SliceSet], object], meant: str) -> None:
    with pytest.raises(us.UnderstudyError) as error:
        mistake(blobs())
    assert f"did you mean {meant}?" in str(error.value.fix)


def test_an_opened_generator_trains_the_same_network(tmp_path: Path) -> None:
    real = blobs()
    us.StyleGAN2(real.channels, R, channel_base=64).fit(real, kimg=0.01, out=tmp_path / "a", batch=8)
    us.Generator.open(tmp_path / "a").fit(real, kimg=0.01, out=tmp_path / "b", batch=8)
    weights = [(tmp_path / name / "generator.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_channels_and_classes_are_matched_by_name() -> None:
    rng = np.random.default_rng(1)
    one = blobs()
    other = rng.integers(0, 60, one.images.shape, dtype=np.uint8)  # a second channel without the lesion
    patients = one.index["subject"].to_numpy()
    halves = one.labels * (1 + (np.arange(R) >= R // 2))  # two classes: left and right

    def made(channels: list[str], values: dict[int, str], labels: np.ndarray) -> us.SliceSet:
        images = {"FLAIR": one.images, "T1w": other}
        joined = np.concatenate([images[c] for c in channels], axis=1)
        return us.SliceSet.from_arrays(joined, labels, patients=patients, channels=channels, classes=values)

    real = made(["FLAIR", "T1w"], {1: "left", 2: "right"}, halves)
    swapped = made(["T1w", "FLAIR"], {1: "right", 2: "left"}, np.array([0, 2, 1])[halves])
    unet = us.UNet(**UNET).fit(synthetic=swapped)
    table = np.array([0, 2, 1], np.uint8)
    np.testing.assert_array_equal(unet.predict(real), table[unet.predict(swapped)])
    result = us.evaluate(real=real, synthetic=swapped, segmenter=us.UNet(**UNET))
    assert result.dice["synthetic"] > 0.3
    assert not [c for c in result.rows if c.startswith("hd")]


def test_images_of_others_are_read_with_named_arguments(tmp_path: Path) -> None:
    real = blobs(3, 1)
    for name, pixels in (("FLAIR", real.images[:, 0]), ("mask", 255 * real.labels)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / "in" / name / f"p{i}_{name}.png")
    told = {"pattern": "{channel}/{id}_{channel}.png", "channels": ["FLAIR"], "labels": "mask"}
    found = us.read(tmp_path / "in", tmp_path / "out", codes={"lesion": 255}, **told)
    np.testing.assert_array_equal(found.images, real.images)
    np.testing.assert_array_equal(found.labels, real.labels)
    with pytest.raises(us.UnderstudyError):
        us.read(tmp_path / "in", tmp_path / "out2", resoluton=16)


def test_copies_of_test_patients_are_left_out_of_an_evaluation_and_named() -> None:
    real = blobs()
    train, _, test = real.split()
    images, labels = np.concatenate([test.images, train.images]), np.concatenate([test.labels, train.labels])
    fake = us.SliceSet.from_arrays(images, labels, channels=real.channels, classes=real.classes)
    found = us.evaluate(real=real, synthetic=fake, segmenter=us.UNet(**UNET))
    assert found.leaked == tuple(range(len(test)))
    assert "withheld" in repr(found)
    assert f"{len(found.leaked)} synthetic slices are copies of test patients" in repr(found)
