"""Where `until: memorization` stops a training, against where full audits of its states find copies; what looks cost.

The network and budget of docs/examples/overtrained.yaml on a few phantoms; looks face 6 validation phantoms, audits 12
test phantoms as well. The second training has no looks, and keeps its weights where the first looked.

    python benchmarks/until_memorization.py --kimg 30 --patients 5
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import understudy as us
from understudy.generators.folder import snapshot_folder
from understudy.generators.registry import model_config, network_type
from understudy.generators.sample import sample_set
from understudy.generators.training.loop import train
from understudy.io.files import read_json
from understudy.memorization.looks import Looks
from understudy.memorization.perform import audit
from understudy.roles import Part
from understudy.slices import SliceSet

NETWORK = {"model_channels": 16, "attention_resolutions": [], "num_res_blocks": 1, "channel_mult": [1, 2, 2],
           "steps": 1000, "noise_schedule": "cosine", "prediction": "velocity"}  # fmt: skip
TRAINING = {"batch": 8, "lr": 0.001, "ema_beta": 0.995, "ema_rampup": True, "min_snr": 5, "tensorboard": False}


def main(kimg: float, patients: int, samples: int, work: Path) -> None:
    """Prints the looks, the share of time that they took, and the verdict of each state."""
    real = us.phantoms(patients=patients + 18, resolution=32, seed=1)
    names = np.unique(real.index["subject"].to_numpy().astype(str))
    training, validation, heldout = (
        Part(name, real, real.rows(subject=list(some)))
        for name, some in (
            ("training", names[:patients]),
            ("validation", names[patients : patients + 6]),
            ("held-out", names[patients:]),
        )
    )
    model = model_config({"kind": "diffusion", "resolution": 32, "channels": len(real.channels) + 1, **NETWORK})
    config = network_type("diffusion").training(kimg=kimg, until="memorization", **TRAINING)
    judge = Looks(training, validation)
    folder = train(real, training.rows, model, config, work / "until", "cpu", judge=judge)
    found = read_json(folder / "config.json")["stopping"]
    print(f"{patients} patients, {len(training.rows)} slices: {found['words']}; kept after {found['kept']:,} images")
    for look in found["looks"]:
        print(f"  look after {look['images']:>7,}: {look['too_near']:.0f} of {look['of']:.0f}, p = {look['p']:.2g}")
    points = [look["images"] / 1000 for look in found["looks"]]
    plain = config.model_copy(update={"until": None, "kimg": points[-1], "keep_weights_kimg": points})
    folder = train(real, training.rows, model, plain, work / "plain", "cpu")
    seconds = read_json(folder / "config.json")["seconds"]
    share = found["seconds"] / seconds
    print(f"{len(points)} looks took {found['seconds']:.1f} s beside {seconds:.1f} s of steps: {share:.1%}")
    train_set, heldout_set = (copy(part) for part in (training, heldout))
    for point in points:
        made = sample_set(snapshot_folder(folder, point), samples, 1, work / f"made-{point:g}", progress=False)
        result = audit(train_set, heldout_set, made, membership=False)
        print(f"  audit after {1000 * point:>7,.0f}: {result}", flush=True)


def copy(part: Part) -> SliceSet:
    """The rows of a part as a set of their own."""
    images, labels = part.slices.read(part.rows)
    s = part.slices
    return SliceSet.from_arrays(images, labels, channels=s.channels, classes=s.classes, patients=list(part.patients))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kimg", type=float, default=30, help="thousand images shown at most")
    parser.add_argument("--patients", type=int, default=5, help="training phantoms")
    parser.add_argument("--samples", type=int, default=300, help="slices that each state is audited by")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        main(arguments.kimg, arguments.patients, arguments.samples, Path(folder))
