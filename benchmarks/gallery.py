"""The worked examples of docs/gallery.md: makes their sets, runs their commands, writes their outputs and pictures.

Three sets of synthetic slices on artificial patients: one that may be released, one that is useless, one that copies.

    python benchmarks/gallery.py --work DIR # 10 minutes of processor time; rewrites outputs and pictures
    python benchmarks/gallery.py --small    # fewer slices, a shorter training, the page left alone
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from understudy.exchange.export import export_images
from understudy.release.documents import sheet
from understudy.slices import SliceSet

PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
STUDY = """\
name: gallery
seed: 1
phantom: {{patients: {patients}, shape: [64, 64, 40], sites: 1, without_enhancement: 0, multifocal: 0}}
slices: {{resolution: 32, scaling: robust}}
split: {{test_patients: {test}, validation_fraction: 0.2}}
generators:
  new-heads: {{folder: new-heads}}
  blobs: {{folder: blobs}}
  copies: {{folder: copies}}
segmenters:
  unet:
    model: {{width: 16}}
    training: {{samples: {samples}, batch: 8, optimiser: adamw, lr: 0.003, validations: 3}}
trainings: [real, synthetic]
"""
SHOWN = 6  # slices of a picture


def run(command: str, folder: Path) -> str:
    """What a command of the page prints; its exit status, if it is not 0, in a last line."""
    words = [sys.executable, "-m", *shlex.split(command)]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{command}: {ended.stderr}")
    said = ended.stdout if ended.returncode == 0 or ended.stdout else ended.stderr
    status = f"(exit status {ended.returncode})\n" if ended.returncode else ""
    return re.sub(re.escape(str(folder.resolve())) + "/?", "", said) + status


def prepare(folder: Path, study: str) -> SliceSet:
    """The real slices of a study, which has no generators yet."""
    study = re.sub(r"generators:\n(  .*\n)+", "", study).replace(", synthetic", "")
    name = study.split()[1]
    (folder / f"{name}.yaml").write_text(study)
    run(f"understudy run {name}.yaml --until prepare --quiet", folder)
    return SliceSet.open(folder / f"understudy-{name}" / "real")


def make_sets(folder: Path, real: SliceSet, new: SliceSet, count: int) -> None:
    """The folders `new-heads`, `blobs` and `copies` of slices of `new`, who are other people than the study's."""
    rng = np.random.default_rng(1)
    some = np.sort(rng.choice(len(new), min(count, len(new)), replace=False))
    images, labels = new.read(some)
    export(folder / "new-heads", real, images, labels)
    blobs = gaussian_filter(rng.normal(0, 1, images.shape), (0, 0, 4, 4))
    blobs = np.clip(90 + 1500 * blobs, 0, 255).astype(np.uint8)
    export(folder / "blobs", real, blobs, rng.permutation(labels))
    copied = np.concatenate([real.rows(split="train")[: count // 4], real.rows(split="test")[: count // 8]])
    mine, marks = real.read(copied)
    images[: len(mine)] = np.clip(mine + rng.normal(0, 4, mine.shape), 0, 255).astype(np.uint8)
    labels[: len(mine)] = marks
    export(folder / "copies", real, images, labels)


def export(out: Path, real: SliceSet, images: np.ndarray, labels: np.ndarray) -> None:
    """The slices as PNG files, as somebody else would hand them over."""
    index = pd.DataFrame({"id": [f"s{i:04d}" for i in range(len(images))]})
    made = SliceSet.from_arrays(images, labels, channels=real.channels, classes=real.classes, index=index)
    export_images(made, out, progress=False)


def picture(slices: SliceSet, rows: np.ndarray, out: Path) -> None:
    """Some slices with their annotations, as a small PNG file."""
    head = {"channels": slices.channels, "classes": [vars(c) for c in slices.classes]}
    shown = sheet(list(zip(*slices.read(rows), strict=True)), {**head, "resolution": slices.resolution, "axes": None})
    shown.save(out, optimize=True)


def fill_forms(folder: Path) -> None:
    """The steward's answers."""
    about = (folder / "forms" / "about.yaml").read_text()
    about = about.replace("short_name: TODO", "short_name: HEADS").replace("licence: TODO", "licence: CC BY 4.0")
    about = about.replace("source_terms_allow_release: TODO", "source_terms_allow_release: true")
    (folder / "forms" / "about.yaml").write_text(re.sub("TODO", "Artificial heads", about))
    decision = (folder / "forms" / "decision.yaml").read_text()
    answers = {"decision": "approve_with_removal", "most_flagged": "0.03", "before_looking": "true"}
    for field, answer in answers.items():
        decision = decision.replace(f"{field}: TODO", f"{field}: {answer}")
    decision = re.sub("(date|set_on): TODO", r"\1: 2026-01-01", decision)
    (folder / "forms" / "decision.yaml").write_text(re.sub("TODO", "A steward", decision))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--work", type=Path, help="folder that is kept, so that a killed run continues")
    asked = arguments.parse_args()
    small = asked.small
    patients, test, count, samples = (24, 6, 120, 300) if small else (40, 12, 500, 7000)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(asked.work or name)
        folder.mkdir(parents=True, exist_ok=True)
        plain = STUDY.format(patients=patients, test=test, samples=samples)
        real = prepare(folder, plain)
        if not (folder / "copies").exists():  # as a perfect generator draws: other people, made in the same way
            others = plain.replace("name: gallery", "name: others").replace("sites: 1", "sites: 1, seed: 77")
            make_sets(folder, real, prepare(folder, others), count)
        (folder / "gallery.yaml").write_text(plain)
        for made in (
            "forms",
            "new-heads-release",
            "blobs-release",
            "copies-release",
            "copies-screened",
            "copies-screened-audit",
        ):
            shutil.rmtree(folder / made, ignore_errors=True)
        (folder / "new-heads-release.ids.csv").unlink(missing_ok=True)
        (folder / "blobs-release.ids.csv").unlink(missing_ok=True)
        outputs = {"template": run("understudy release template forms", folder)}
        fill_forms(folder)
        outputs["run"] = run("understudy run gallery.yaml --quiet", folder)
        given = "--about forms/about.yaml --decision forms/decision.yaml"
        for which in ("new-heads", "blobs", "copies"):
            command = f"understudy release slices --study understudy-gallery --generator {which} {given}"
            outputs[which] = run(f"{command} --out {which}-release --quiet", folder)
        out = "understudy-gallery"
        command = f"understudy screen {out}/synthetic/copies --audit {out}/audits/copies --training {out}/real"
        outputs["screen"] = run(f"{command} --out copies-screened --quiet", folder)
        if small:
            print("\n".join(f"== {key}\n{said}" for key, said in outputs.items()))
            return
        for which in ("new-heads", "blobs", "copies"):
            made = SliceSet.open(folder / out / "synthetic" / which)
            rows = np.linspace(0, len(made) - 1, SHOWN).astype(int) if which != "copies" else np.arange(SHOWN) * 9
            picture(made, rows, PAGE.parent / "images" / f"gallery-{which}.png")
    text = PAGE.read_text(encoding="utf-8")
    if plain not in text:
        raise SystemExit(f"{PAGE} shows another study than:\n{plain}")
    for key, said in outputs.items():
        block = rf"(?<=<!-- output of {key} -->\n```text\n).*?(?=```)"
        text = re.sub(block, lambda _, s=said: s, text, count=1, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
