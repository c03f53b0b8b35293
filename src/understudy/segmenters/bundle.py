"""A trained U-Net as a MONAI bundle: it labels slices without Understudy, by `monai.bundle` alone.

Its input are PNG files as `understudy export images` and released packages have them, at the training's resolution.
Volumes are cut into slices and labelled on their own grid by `understudy segment`, which a bundle cannot express.
"""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.export import new_folder, png_names
from understudy.io.files import atomic_path, write_json, write_text
from understudy.segmenters.config import model_config
from understudy.segmenters.predict import Segmenter, load
from understudy.segmenters.unet import UNet, UNetConfig, dynunet_arguments

_WEIGHTS = "models/model.safetensors"
_Z_SCORE = (  # `augment.normalise`: mean and deviation of the foreground, taken from all pixels
    "$lambda x: (lambda n: (lambda mean: (lambda var: (x - mean) * torch.where(var > 1e-7, var.clamp(min=1e-7).rsqrt(),"
    " torch.zeros_like(var)))(x.square().sum((1, 2), True) / n - mean.square()))(x.sum((1, 2), True) / n))"
    "((x > 0).sum((1, 2), True).clamp(min=1))"
)


def export_bundle(model: str | Path, out: str | Path) -> Path:
    """Writes a bundle (`configs`, `models`, `docs`) from the folder of a trained segmenter; returns it.

    Raises:
        UnderstudyError: no finished segmenter, another network than the U-Net, `out` is not empty.
    """
    folder = Path(model) / "model" if (Path(model) / "model").is_dir() else Path(model)
    segmenter = load(folder, "cpu")
    if not isinstance(segmenter.network, UNet):
        fix = "export a U-Net; Swin + UPerNet is built from `transformers`, which has no name in a bundle"
        raise UnderstudyError("only U-Nets can be exported", where=folder, fix=fix)
    state = segmenter.network.body.state_dict()  # DynUNet lists its layers twice; safetensors shares no memory
    weights = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    with new_folder(out) as made:
        (made / "models").mkdir()
        with atomic_path(made / _WEIGHTS) as temporary:
            safetensors.torch.save_file(weights, temporary)
        write_json(made / "configs" / "metadata.json", _metadata(segmenter))
        write_json(made / "configs" / "inference.json", _inference(segmenter))
        write_text(made / "docs" / "README.md", _readme(segmenter))
    return Path(out)


def _files(segmenter: Segmenter) -> list[str]:
    names = png_names(segmenter.channels)
    return [names[channel] for channel in segmenter.channels]


def _network(segmenter: Segmenter) -> dict[str, Any]:
    config = model_config(segmenter.record["model"])
    assert isinstance(config, UNetConfig)
    filters = config.stages(segmenter.resolution)
    built = dynunet_arguments(len(segmenter.channels), len(segmenter.classes), filters, config.deep_supervision)
    return {"_target_": "DynUNet", **built}


def _inference(segmenter: Segmenter) -> dict[str, Any]:
    """configs/inference.json; `run` writes a PNG of class indices for each slice."""
    first = _files(segmenter)[0]
    scaled = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x / 255"}
    fed = [scaled, {"_target_": "Lambdad", "keys": "image", "func": _Z_SCORE}] if segmenter.input == "z_score" else []
    return {
        "imports": ["$import glob", "$import os", "$import numpy", "$import torch", "$from PIL import Image",
                    "$from safetensors.torch import load_file"],
        "bundle_root": ".", "dataset_dir": "$@bundle_root + '/slices'", "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "channels": _files(segmenter),
        "cases": f"$sorted(os.path.basename(f)[:-len('_{first}.png')] for f in "
                 f"glob.glob(os.path.join(@dataset_dir, '{first}', '*_{first}.png')))",
        "datalist": "$[{'case': i, 'image': [os.path.join(@dataset_dir, c, f'{i}_{c}.png') for c in @channels]}"
                    " for i in @cases]",
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Lambdad", "keys": "image", "func":
             "$lambda files: torch.from_numpy(numpy.stack([numpy.asarray(Image.open(f)) for f in files])).float()"},
            *fed,
        ]},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "network_def": _network(segmenter),
        "weights": f"$load_file(os.path.join(@bundle_root, '{_WEIGHTS}'))",
        "network": "$@network_def.to(@device).eval()",
        "save": "$lambda case, labels: Image.fromarray(labels.byte().cpu().numpy())"
                ".save(os.path.join(@output_dir, f'{case}.png'))",
        "initialize": ["$os.makedirs(@output_dir, exist_ok=True)", "$@network_def.load_state_dict(@weights)",
                       "$@network_def.requires_grad_(False)"],
        "run": ["$[@save(d['case'], @network(d['image'][None].to(@device))[0].argmax(0)) for d in @dataset]"],
    }  # fmt: skip


def _metadata(segmenter: Segmenter) -> dict[str, Any]:
    import monai
    import numpy as np

    size, names = [segmenter.resolution] * 2, dict(enumerate(segmenter.classes))
    image = {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": len(segmenter.channels),
             "spatial_shape": size, "dtype": "float32", "value_range": [], "is_patch_data": False,
             "channel_def": {str(i): name for i, name in enumerate(segmenter.channels)}}  # fmt: skip
    labels = {"type": "image", "format": "segmentation", "num_channels": len(segmenter.classes),
              "spatial_shape": size, "dtype": "float32", "value_range": [], "is_patch_data": False,
              "channel_def": {str(i): name for i, name in names.items()}}  # fmt: skip
    return {
        "version": "0.1.0", "changelog": {"0.1.0": f"exported by Understudy {__version__}"},
        "monai_version": monai.__version__.split("+")[0], "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__, "required_packages_version": {"safetensors": "0.4.5", "pillow": "10.0"},
        "name": "Segmenter of MR slices", "task": "segmentation of 2D slices", "authors": "", "copyright": "",
        "description": "U-Net (nnU-Net's 2D network) that labels MR slices", "intended_use": "research; no diagnosis",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": labels}},
    }  # fmt: skip


def _readme(segmenter: Segmenter) -> str:
    files, classes = _files(segmenter), ", ".join(f"{i} {name}" for i, name in enumerate(segmenter.classes))
    return f"""# Segmenter of MR slices

NOT RELEASED: Understudy has no gate for segmenters. Weights that were trained on patients may tell something of them.

Input: 8-bit grey PNG files of {segmenter.resolution} x {segmenter.resolution} pixels, one for each channel,
`slices/{files[0]}/ID_{files[0]}.png` and so on for {", ".join(files)}, as `understudy export images` writes them.
Output: `predictions/ID.png`, class indices: {classes}.

```sh
pip install monai fire safetensors pillow
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir FOLDER --output_dir labels
```

Volumes: `understudy segment`, which cuts, scales and chooses slices as in the training.
"""
