"""A MONAI bundle of a trained U-Net: `monai.bundle` labels slices as `predict` does."""

from __future__ import annotations

from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import toys
from PIL import Image
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.exchange.export import export_images
from understudy.segmenters.bundle import export_bundle
from understudy.segmenters.config import model_config
from understudy.segmenters.predict import load, predict
from understudy.segmenters.train import SegmenterTrainingConfig, train_segmenter
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

SMALL = {"kind": "unet", "width": 4, "max_width": 8}


@pytest.fixture(scope="module", params=["z_score", "raw"])
def trained(
    request: pytest.FixtureRequest, real: SliceSet, volumes: VolumeSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    settings = {"samples": 240, "batch": 8, "momentum": 0.9, "precision": "fp32", "validations": 1}
    training = SegmenterTrainingConfig.model_validate({**settings, "augment": {"input": request.param}})
    return train_segmenter(real, None, model_config(SMALL), training, folder, volumes, "cpu", progress=False)


def test_monai_labels_as_we_do(trained: Path, tmp_path: Path) -> None:
    slices = toys.slice_set(tmp_path / "set", n=6, seed=5)
    export_images(slices, tmp_path / "png", progress=False)
    shown = CliRunner().invoke(app, ["export", "monai", str(trained), str(tmp_path / "bundle"), "-q"])
    assert shown.exit_code == 0, shown.output
    bundle, out = tmp_path / "bundle", tmp_path / "labels"
    files = {"config_file": str(bundle / "configs/inference.json"), "meta_file": str(bundle / "configs/metadata.json")}
    monai.bundle.run(bundle_root=str(bundle), dataset_dir=str(tmp_path / "png"), output_dir=str(out), **files)
    found = np.stack([np.asarray(Image.open(out / f"{i}.png")) for i in range(6)])
    wanted = predict(load(trained, "cpu"), slices.read(slice(None))[0])
    assert wanted.any()
    np.testing.assert_array_equal(found, wanted)
    monai.bundle.verify_net_in_out("network_def", device="cpu", **files)


def test_what_cannot_be_a_bundle_is_refused(tmp_path: Path, real: SliceSet, volumes: VolumeSet) -> None:
    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        export_bundle(tmp_path, tmp_path / "out")
    swin = model_config({"kind": "swin", "size": "mini", "embed": 8, "heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]})
    training = SegmenterTrainingConfig(samples=8, batch=8, precision="fp32", validations=1)
    made = train_segmenter(real, None, swin, training, tmp_path / "swin", volumes, "cpu", progress=False)
    with pytest.raises(UnderstudyError, match="only U-Nets"):
        export_bundle(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
