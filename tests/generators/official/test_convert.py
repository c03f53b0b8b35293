"""`understudy import`: golden arrays -> a checkpoint in the official format -> our folder -> the golden image."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import official_files as files
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import UnderstudyError
from understudy.generators.folder import DISCRIMINATOR
from understudy.generators.networks.unet import DiffusionConfig
from understudy.generators.official import convert
from understudy.generators.official.convert import import_checkpoint, parse_channels, parse_classes
from understudy.generators.registry import load_generator
from understudy.generators.sample import sample_set

GOLDEN = Path(__file__).parents[2] / "golden"
CHANNELS = ("T1w", "T2w", "FLAIR", "T1wGd")


def at_level(arrays: Mapping[str, np.ndarray], level: float) -> dict[str, np.ndarray]:
    """The arrays of a progressive network that has so many doublings of its resolution before it."""
    return {k: np.array(level, np.float32) if k.rpartition("/")[2] == "lod" else v for k, v in arrays.items()}


def official_file(name: str, folder: Path, protocol: int = 4, level: float = 0) -> Path:
    """A checkpoint in its official format with the arrays of a golden file."""
    config, arrays = files.golden(GOLDEN / f"{name}.npz")
    path = folder / "network-snapshot-012000.pkl"
    if name.startswith("stylegan3"):
        path.write_bytes(files.stylegan3_pickle(arrays, config, protocol))
    elif name.startswith("stylegan2"):
        path.write_bytes(files.stylegan2_pickle(arrays, config, protocol))
    elif name.startswith("diffusion"):
        path = folder / "ema_0.9999_030000.pt"
        weights = OrderedDict((k, torch.from_numpy(v)) for k, v in files.part(arrays, "M/").items())
        # As from `state_dict()`, which guided-diffusion saves: the attribute is pickled, too.
        weights._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
        torch.save(weights, path, _use_new_zipfile_serialization=protocol >= 4)
    else:
        given = {
            "num_channels": 5, "resolution": config["resolution"], "label_size": 0,
            "fmap_base": config["fmap_base"], "fmap_max": config["fmap_max"],
        }  # fmt: skip
        if name.startswith("progan"):
            path.write_bytes(files.progan_pickle(at_level(arrays, level), given, protocol))
        else:
            sizes = {"latent_size": 32, "dlatent_size": 32, "mapping_fmaps": 32, "truncation_psi": 0.7}
            path.write_bytes(files.stylegan1_pickle(at_level(arrays, level), given | sizes, protocol))
    return path


@pytest.fixture(scope="module")
def stylegan2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official_file("stylegan2_r32", tmp_path_factory.mktemp("official"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("stylegan2_r32", "img"),
        ("stylegan3t_r32", "img"),
        ("stylegan3r_r32", "img"),
        ("progan_r32", "img_lod0"),
        ("stylegan1_r32", "img_lod0"),
    ],
)
def test_an_imported_gan_draws_the_golden_image(name: str, image: str, protocol: int, tmp_path: Path) -> None:
    _, given = files.golden(GOLDEN / f"{name}.npz")
    made = import_checkpoint(official_file(name, tmp_path, protocol), tmp_path / "run", CHANNELS)
    generator, config = load_generator(made.folder)
    drawn = generator(torch.from_numpy(given["z"])).numpy()
    assert np.abs(drawn - given[image]).max() < 1e-4 * np.abs(given[image]).max()
    assert config["kind"] == made.kind
    assert config["kimg"] == 12000
    assert (made.folder / DISCRIMINATOR).is_file()


DIFFUSION = {
    "diffusion_fixed_r32": {"image_size": 32, "steps": 4000, "noise_schedule": "linear"},
    "diffusion_learned_r32": {"image_size": 32, "steps": 1000, "noise_schedule": "cosine"},
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(DIFFUSION))
def test_an_imported_unet_predicts_the_golden_noise(name: str, protocol: int, tmp_path: Path) -> None:
    _, given = files.golden(GOLDEN / f"{name}.npz")
    path = official_file(name, tmp_path, protocol)
    made = import_checkpoint(path, tmp_path / "run", CHANNELS, diffusion=DIFFUSION[name])
    generator, config = load_generator(made.folder)
    found = generator(torch.from_numpy(given["x"]), torch.from_numpy(given["t"])).numpy()
    assert np.abs(found - given["model_out"]).max() < 1e-4 * np.abs(given["model_out"]).max()
    assert (config["trained_steps"], config["ema"]) == (30000, 0.9999)
    assert any("4 heads" in note for note in made.notes)


@pytest.mark.parametrize("rescaled", [False, True])
def test_the_time_that_a_unet_is_shown_is_as_it_was_trained(rescaled: bool, tmp_path: Path) -> None:
    """Official `--rescale_timesteps`: t * 1000 / T, which the weights do not tell."""
    path, told = official_file("diffusion_fixed_r32", tmp_path), DIFFUSION["diffusion_fixed_r32"]
    words = [f"--{n}={told[k]}" for n, k in [("resolution", "image_size"), ("steps", "steps")]]
    words += [f"--schedule={told['noise_schedule']}", *(["--rescale-timesteps"] if rescaled else [])]
    out = tmp_path / "run"
    done = CliRunner().invoke(
        cli.app, ["import", str(path), "--out", str(out), "--channels", ",".join(CHANNELS), *words]
    )
    assert done.exit_code == 0, done.output
    config = DiffusionConfig.model_validate(json.loads((out / "config.json").read_text())["model"])
    assert config.process().time_scale == (0.25 if rescaled else 1)


def test_the_folder_says_where_it_comes_from_and_can_be_sampled(stylegan2: Path, tmp_path: Path) -> None:
    made = import_checkpoint(stylegan2, tmp_path / "run", CHANNELS)
    config = json.loads((made.folder / "config.json").read_text())
    assert config["channels"] == list(CHANNELS)
    assert [c["code"] for c in config["classes"]] == [0, 51, 102, 204]
    assert config["imported"]["file"] == stylegan2.name
    assert len(config["imported"]["sha256"]) == 64
    assert config["imported"]["network"] == "Generator"
    slices = sample_set(made.folder, 3, 0, tmp_path / "slices", device="cpu", progress=False)
    assert slices.channels == CHANNELS
    assert len(slices) == 3


def test_the_discriminator_has_our_names(stylegan2: Path, tmp_path: Path) -> None:
    _, given = files.golden(GOLDEN / "stylegan2_r32.npz")
    folder = import_checkpoint(stylegan2, tmp_path / "run", CHANNELS).folder
    judge = safetensors.torch.load_file(folder / DISCRIMINATOR)
    np.testing.assert_array_equal(judge["out.bias"], given["D/b4.out.bias"])


def test_the_same_import_again_changes_nothing_and_another_is_refused(stylegan2: Path, tmp_path: Path) -> None:
    folder = import_checkpoint(stylegan2, tmp_path / "run", CHANNELS).folder
    before = (folder / "config.json").stat().st_mtime_ns
    import_checkpoint(stylegan2, folder, CHANNELS)
    assert (folder / "config.json").stat().st_mtime_ns == before
    with pytest.raises(UnderstudyError, match="another"):
        import_checkpoint(stylegan2, folder, tuple(reversed(CHANNELS)))


def test_one_hot_annotation_takes_a_channel_a_class(stylegan2: Path, tmp_path: Path) -> None:
    made = import_checkpoint(stylegan2, tmp_path / "run", ("T1w", "FLAIR"), annotation="one_hot")
    assert len(sample_set(made.folder, 1, 0, tmp_path / "s", device="cpu", progress=False).channels) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"4 image channels are needed[\s\S]*T1w,T2w,FLAIR,T1wGd"),
        (["--channels", "T1w,T2w"], r"2 channels named[\s\S]*has 5"),
        (["--channels", "T1w,T2w,FLAIR,T1w"], "names that differ"),
        (["--channels", ",".join(CHANNELS), "--annotation", "first"], "'first' is unknown"),
        (["--channels", ",".join(CHANNELS), "--annotation", "one_hot"], "4 channels named"),
        (["--channels", ",".join(CHANNELS), "--classes", "ET"], "cannot be read"),
        (["--channels", ",".join(CHANNELS), "--classes", "ET=1:300"], "1 to 255"),
        (["--channels", ",".join(CHANNELS), "--steps", "1000"], "steps given"),
    ],
)
def test_wrong_options_say_what_to_do(stylegan2: Path, tmp_path: Path, options: list[str], message: str) -> None:
    ran = CliRunner().invoke(cli.app, ["import", str(stylegan2), "--out", str(tmp_path / "run"), *options])
    assert isinstance(ran.exception, UnderstudyError)
    assert re.search(message, ran.exception.message)
    assert ran.exception.fix
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_to_do_next(stylegan2: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = CliRunner().invoke(cli.app, ["import", str(stylegan2), "-o", str(out), "--channels", ",".join(CHANNELS)])
    assert ran.exit_code == 0, ran.exception
    assert f"understudy sample {out}" in ran.output


def test_classes_with_and_without_codes() -> None:
    assert [c.code for c in parse_classes("core=1, oedema=2")] == [0, 128, 255]
    assert parse_classes("NCR/NET=1:51,ED=2:102,ET=4:204") == convert.BRATS_CLASSES
    assert parse_channels("T1w, FLAIR") == ("T1w", "FLAIR")


@pytest.mark.parametrize("name", ["progan_r32", "stylegan1_r32"])
def test_a_network_that_still_grows_is_imported_as_far_as_it_is(name: str, tmp_path: Path) -> None:
    _, given = files.golden(GOLDEN / f"{name}.npz")
    made = import_checkpoint(official_file(name, tmp_path, level=1.7), tmp_path / "run", CHANNELS)
    drawn = load_generator(made.folder)[0](torch.from_numpy(given["z"])).numpy()
    assert np.abs(drawn - given["img_lod1.7"]).max() < 1e-4 * np.abs(given["img_lod1.7"]).max()
    assert any("still growing, 1.7" in note for note in made.notes)


def test_labels_other_networks_and_other_dictionaries_are_refused(tmp_path: Path) -> None:
    config, arrays = files.golden(GOLDEN / "stylegan2_r32.npz")
    path = tmp_path / "file.pkl"
    labelled = files.persistence_pickle(
        arrays, {"c_dim": 3, "img_resolution": 32, "img_channels": 5, "z_dim": 64, "w_dim": 64}, {}
    )
    for content, message in [
        (labelled, "3 labels"),
        (files.progan_pickle({"G/other": np.zeros(3)}, {}), "nor StyleGAN 1"),
        (files.persistence_pickle({"G/conv.weight": np.zeros((2, 2))}, config | {"c_dim": 0,
            "img_resolution": 32}, {}), "nor StyleGAN 3"),
    ]:  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UnderstudyError, match=message):
            import_checkpoint(path, tmp_path / "run", CHANNELS)


def before(names: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    return {names + key: value for key, value in weights.items()}


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda good, bad: good, ""),
        (lambda good, bad: before("module.", good), "module."),
        (lambda good, bad: before("_orig_mod.", good), "_orig_mod."),
        (lambda good, bad: before("module._orig_mod.", good), "module._orig_mod."),
        (lambda good, bad: before("model.diffusion_model.", good), "model.diffusion_model."),
        (lambda good, bad: before("ema_model.", good) | before("online_model.", bad), "ema_model."),
        (lambda good, bad: {"model": bad, "ema": good, "step": 7}, "ema"),
        (lambda good, bad: {"model": bad, "model_ema": before("module.", good)}, "model_ema/module."),
        (lambda good, bad: {"ema": {"state_dict": good, "decay": 0.999}, "model": bad}, "ema/state_dict"),
        (lambda good, bad: {"state_dict": good}, "state_dict"),
        (lambda good, bad: {"model": good, "ema": {"shadow_params": [1]}, "remap": bad}, "model"),
        (
            lambda good, bad: {
                "model_state_dict": good,
                "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
            },
            "model_state_dict",
        ),
    ],
)
def test_weights_as_training_scripts_wrap_them(
    wrap: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]], taken: str, tmp_path: Path
) -> None:
    name = "diffusion_fixed_r32"
    _, given = files.golden(GOLDEN / f"{name}.npz")
    good = torch.load(official_file(name, tmp_path), weights_only=True)
    bad = {key: torch.zeros_like(value) for key, value in good.items()}
    path = tmp_path / "last.pt"
    torch.save(wrap(dict(good), bad), path)
    made = import_checkpoint(path, tmp_path / "run", CHANNELS, diffusion=DIFFUSION[name])
    generator, config = load_generator(made.folder)
    found = generator(torch.from_numpy(given["x"]), torch.from_numpy(given["t"])).numpy()
    assert np.abs(found - given["model_out"]).max() < 1e-4 * np.abs(given["model_out"]).max()
    assert config["imported"].get("weights", "") == taken
    notes = [note for note in made.notes if "in the file" in note]
    assert len(notes) == bool(taken)
    assert all(f"called {taken} in the file" in note for note in notes)


def test_a_wrapped_file_is_not_executed_either(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": {"time_embed.0.weight": torch.zeros(2)}, "then": Path("x")}, path)
    with pytest.raises(UnderstudyError, match="executed"):
        import_checkpoint(path, tmp_path / "run", CHANNELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {}, "param_groups": []}, "optimiser"),
        ({"layer.weight": torch.zeros(2)}, "not of guided-diffusion"),
        ([1, 2], "something else"),
    ],
)
def test_other_pytorch_files_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "opt030000.pt"
    torch.save(content, path)
    with pytest.raises(UnderstudyError, match=message):
        import_checkpoint(path, tmp_path / "run", CHANNELS)


def test_a_unet_needs_what_its_weights_do_not_tell(tmp_path: Path) -> None:
    path = official_file("diffusion_fixed_r32", tmp_path)
    with pytest.raises(UnderstudyError, match=r"--resolution[\s\S]*--steps[\s\S]*--schedule[\s\S]*--steps 4000"):
        import_checkpoint(path, tmp_path / "run", CHANNELS)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"noise_schedule": "quadratic"}, r"noise_schedule[\s\S]*--schedule"),
        ({"image_size": 48}, "power of two"),
        ({"num_heads": 7}, r"heads[\s\S]*--heads"),
        ({"num_heads": 4, "num_head_channels": 16}, "num_head_channels"),
    ],
)
def test_wrong_options_of_a_unet_say_what_to_do(update: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = official_file("diffusion_fixed_r32", tmp_path)
    with pytest.raises(UnderstudyError, match=message):
        import_checkpoint(path, tmp_path / "run", CHANNELS, diffusion=DIFFUSION["diffusion_fixed_r32"] | update)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config, arrays = files.golden(GOLDEN / "stylegan2_r32.npz")
    bad = arrays | {"G/synthesis.b8.conv0.bias": np.full_like(arrays["G/synthesis.b8.conv0.bias"], np.nan)}
    path = tmp_path / "file.pkl"
    path.write_bytes(files.stylegan2_pickle(bad, config))
    with pytest.raises(UnderstudyError, match="diverged"):
        import_checkpoint(path, tmp_path / "run", CHANNELS)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"z_dim": 10**9}, "z_dim = 1e[+]09"),
        ({"mapping_layers": 10**6}, "mapping_layers = 1e[+]06"),
        ({"w_dim": "1000000000"}, "w_dim"),
        ({"channel_base": 10**12, "channel_max": 10**9}, "channel_base"),
        ({"resolution": 2**20}, "less than or equal to 512|beyond any model"),
    ],
)
def test_sizes_beyond_the_arrays_do_not_fill_the_memory(tmp_path: Path, update: dict[str, Any], message: str) -> None:
    config, arrays = files.golden(GOLDEN / "stylegan2_r32.npz")
    path = tmp_path / "file.pkl"
    path.write_bytes(files.stylegan2_pickle(arrays, config | update))
    with pytest.raises(UnderstudyError, match=message):
        import_checkpoint(path, tmp_path / "run", CHANNELS)


def test_a_maximum_that_is_never_reached_does_not_matter(tmp_path: Path) -> None:
    config, arrays = files.golden(GOLDEN / "stylegan2_r32.npz")
    path = tmp_path / "file.pkl"
    path.write_bytes(files.stylegan2_pickle(arrays, config | {"channel_max": 32.0}))
    assert import_checkpoint(path, tmp_path / "run", CHANNELS).resolution == 32
