"""The built-in phantom cohort: brains with tumours drawn by rule, in the layout of BraTS, for trials without patients.

    write_phantoms(PhantomConfig(patients=40, shape=(64, 64, 40)), Path("phantoms"))

Patient k of a seed is the same at any number of patients, and has the same anatomy at any number of voxels. What makes
it a trial: tumours differ in place, size and shape, some do not enhance, some have several foci; unlabelled
hyperintensities of age, vessels and choroid plexus imitate them; every site has its own contrast, noise and blur.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import nibabel as nib
import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from understudy import __version__
from understudy.cohort.phantom.head import FIELD_OF_VIEW, Anatomy, Grid, HeadShape, Streams, build_anatomy, smooth_noise
from understudy.cohort.phantom.tumour import ENHANCING, NECROSIS, OEDEMA, add_tumours, draw_lesions, mass_effect
from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json, write_text, writing
from understudy.io.settings import Settings
from understudy.runtime.lazy import ndimage
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import track

DRAWING = 1  # raised whenever the same seed no longer gives the same volumes
_SUFFIXES = {
    "brats2018": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
    "brats2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
}
_TURNS = (0.6180339887498949, 0.4142135623730951)  # golden and silver ratio

CHANNELS = ("t1", "t1gd", "t2", "flair")

# Intensities relative to white matter on T1w, the same arbitrary unit in each sequence; the order of tissues and the
# rough ratios are those of BraTS volumes.
TISSUES: dict[str, tuple[float, float, float, float]] = {
    #              t1    t1gd  t2    flair
    "csf": (0.26, 0.28, 2.00, 0.20),
    "gm": (0.74, 0.78, 0.84, 0.98),
    "wm": (1.00, 1.00, 0.56, 0.76),
    "nuclei": (0.84, 0.87, 0.64, 0.86),
    "cerebellum": (0.74, 0.79, 0.84, 0.90),
    "stem": (0.95, 0.96, 0.62, 0.80),
    "wmh": (0.84, 0.86, 0.92, 1.28),
    "choroid": (0.62, 1.32, 1.30, 0.80),
    "vessel": (0.50, 1.55, 0.55, 0.40),
    "oedema": (0.76, 0.78, 1.18, 1.50),
    "necrosis": (0.44, 0.46, 1.55, 0.95),
    "enhancing": (0.74, 1.60, 0.98, 1.22),
}
_NON_ENHANCING = (0.58, 0.60, 1.45, 1.38)  # a core that does not enhance is tumour, not necrosis

Voxels = Annotated[int, Field(ge=8, le=1024)]


class PhantomConfig(Settings, frozen=True):
    """What to draw. The head has the same size in mm at every shape."""

    patients: int = Field(default=40, ge=1, le=100_000, description="number of patients")
    shape: tuple[Voxels, Voxels, Voxels] = Field(
        default=(240, 240, 155), description="voxels along x, y, z; the field of view is always 240 x 240 x 155 mm"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="patient k of a seed is always the same patient; null: follows from the study's, 1 without one",
    )
    sites: Annotated[int, Field(ge=1, le=100)] | Annotated[list[str], Field(min_length=1)] = Field(
        default=4, description="number of sites, or their names; patients go to them in turn"
    )
    naming: Literal["brats2018", "brats2023"] = Field(
        default="brats2018",
        description="brats2018: _t1 _t1ce _t2 _flair, label 4; brats2023: -t1n -t1c -t2w -t2f, label 3",
    )
    without_enhancement: float = Field(0.18, ge=0, le=1, description="part of the patients with no enhancing rim")
    multifocal: float = Field(0.15, ge=0, le=1, description="part of the patients with two or three foci")
    tumours: Literal["brats", "easy"] = Field(
        "brats",
        description="brats: three classes, any size; easy: one class, larger and of clear contrast, for a first look",
    )

    @property
    def drawn_by(self) -> int:
        """The seed, also where none was given."""
        return 1 if self.seed is None else self.seed

    @property
    def labels(self) -> dict[int, str]:
        """Value in the files -> class, where they are not those of BraTS."""
        return {1: "tumour"} if self.tumours == "easy" else {}

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`tumours` came later and is left out at its default: older studies keep the ids of their jobs."""
        return {name: value for name, value in handler(self).items() if (name, value) != ("tumours", "brats")}

    def site_names(self) -> list[str]:
        """The sites' names in turn."""
        return self.sites if isinstance(self.sites, list) else [f"site{k + 1}" for k in range(self.sites)]


@dataclass(frozen=True)
class Site:
    """A hospital's scanner and protocol."""

    name: str
    contrast: tuple[float, ...]  # factor of every tissue's difference from white matter, per sequence
    gamma: tuple[float, ...]  # exponent of the intensities, per sequence
    noise: float  # standard deviation of the complex noise, in units of white matter on T1w, at 1 mm voxels
    bias: float  # standard deviation of the logarithm of the bias field
    blur: tuple[float, float]  # standard deviation (mm) of the point spread in plane and through plane
    thick: float  # the same through plane for FLAIR, which is often acquired in thick slices

    @classmethod
    def draw(cls, name: str, number: int) -> "Site":
        """The site with this number, the same in every cohort whatever its seed."""
        rng = np.random.default_rng([20182023, number])

        def drawn(low: float, high: float, digits: int) -> float:
            return round(float(rng.uniform(low, high)), digits)

        return cls(
            name=name, contrast=tuple(drawn(0.8, 1.15, 3) for _ in CHANNELS),
            gamma=tuple(drawn(0.85, 1.2, 3) for _ in CHANNELS), noise=drawn(0.012, 0.036, 4),
            bias=drawn(0.04, 0.14, 3), blur=(drawn(0.3, 0.7, 2), drawn(0.3, 1.0, 2)), thick=drawn(0.6, 1.9, 2),
        )  # fmt: skip


def render(grid: Grid, streams: Streams, anatomy: Anatomy, site: Site, enhancing: bool) -> dict[str, np.ndarray]:
    """The four sequences as a scanner at this site shows them: channel -> float32 of the anatomy's voxels, above 0."""
    axes, voxels = grid.box_axes(), anatomy.voxels
    table = _tissue_intensities(streams, site, enhancing)
    rng = streams.rng("scan")
    texture = smooth_noise(streams.rng("texture"), axes, 4.0).ravel()[voxels]
    images = {}
    for c, channel in enumerate(CHANNELS):
        clean = np.zeros(len(voxels), np.float32)
        for tissue, part in anatomy.tissues.items():
            clean += part * np.float32(table[tissue][c])
        clean *= 1 + 0.025 * (texture if c % 2 else -texture)
        # point spread inside the brain only, so that the skull-stripped border stays sharp as in BraTS volumes; a
        # scanner averages over its voxel: without that, folds finer than the voxel would be sampled as salt and pepper
        sigmas = (site.blur[0], site.blur[0], site.thick if channel == "flair" else site.blur[1])
        spread = [np.hypot(s / w, 0.42) for s, w in zip(sigmas, grid.spacing, strict=True)]
        box = np.zeros((2, int(np.prod(grid.box_shape))), np.float32)
        box[0, voxels], box[1, voxels] = clean, 1
        for part in box:
            part[:] = ndimage.gaussian_filter(part.reshape(grid.box_shape), spread, truncate=2.5).ravel()
        clean = box[0, voxels] / box[1, voxels]
        bias = smooth_noise(streams.rng(f"bias {channel}"), axes, 70.0).ravel()[voxels]
        clean *= np.exp(np.float32(site.bias) * bias)
        # a larger voxel has less noise: half of what averaging (edge^-1.5) would give, as coarse scans are faster too
        sigma = np.float32(site.noise * min(1.0, grid.voxel**-0.75))
        real, imaginary = rng.standard_normal((2, len(clean)), dtype=np.float32) * sigma
        gain = np.float32(rng.lognormal(np.log(600.0), 0.5))
        images[channel] = np.maximum(np.hypot(clean + real, imaginary) * gain, np.float32(1e-3))
    return images


def _tissue_intensities(streams: Streams, site: Site, enhancing: bool) -> dict[str, np.ndarray]:
    """Intensity of every tissue in this patient on this scanner: name -> float64 [channel]."""
    rng = streams.rng("intensities")
    vivid = {"oedema": rng.uniform(0.75, 1.15), "enhancing": rng.uniform(0.8, 1.3), "necrosis": rng.uniform(0.8, 1.1)}
    white = np.array(TISSUES["wm"])
    table = {}
    for tissue, values in TISSUES.items():
        base = np.array(_NON_ENHANCING if tissue == "necrosis" and not enhancing else values)
        base = white + (base - white) * vivid.get(tissue, 1.0)
        base = white + (base - white) * np.array(site.contrast)
        jitter = 1 + 0.03 * np.clip(rng.standard_normal(len(CHANNELS)), -2, 2)
        table[tissue] = np.maximum(base, 0.08) ** np.array(site.gamma) * (jitter if tissue != "wm" else 1)
    return table


@dataclass(frozen=True)
class Phantom:
    """One patient in memory."""

    # channel (t1, t1gd, t2, flair) -> float32 [x, y, z], 0 outside the brain and above 0 inside
    images: dict[str, np.ndarray]
    labels: np.ndarray  # uint8 [x, y, z]: 0, 1 necrosis or non-enhancing core, 2 oedema, 4 enhancing; easy: all 1
    tissues: dict[str, np.ndarray]  # tissue -> part of the voxel, float32 [x, y, z]
    affine: np.ndarray  # voxel indices -> mm, LPS as in BraTS
    facts: dict[str, Any]


def patient_id(config: PhantomConfig, number: int) -> str:
    """The name of patient `number` (from 0): Phantom_001, or Phantom-001 with the naming of 2023."""
    return f"Phantom{_SUFFIXES[config.naming][0][0]}{number + 1:03d}"


def _turns(config: PhantomConfig, number: int) -> list[float]:
    """Two numbers in 0..1 of a patient; below any share lie about as many patients, whatever the cohort's size."""
    starts = [np.random.default_rng([config.drawn_by, which]).uniform() for which in range(len(_TURNS))]
    return [float((start + number * turn) % 1.0) for start, turn in zip(starts, _TURNS, strict=True)]


def draw_patient(config: PhantomConfig, number: int) -> Phantom:
    """Patient `number` (from 0) of the cohort."""
    grid, streams = Grid(config.shape), Streams(config.drawn_by, number)
    enhances, foci = _turns(config, number)
    enhancing = enhances >= config.without_enhancement
    names = config.site_names()
    site = Site.draw(names[number % len(names)], number % len(names))
    easy = config.tumours == "easy"
    head, lesions = HeadShape.draw(streams), draw_lesions(streams, enhancing, foci < config.multifocal, easy)
    anatomy = build_anatomy(grid, streams, head, mass_effect(lesions))
    labels = add_tumours(grid, streams, anatomy, lesions)
    images = render(grid, streams, anatomy, site, enhancing)

    def whole(values: np.ndarray) -> np.ndarray:
        """Values of the anatomy's voxels -> the whole image, 0 elsewhere."""
        box = np.zeros(grid.box_shape, values.dtype)
        box.ravel()[anatomy.voxels] = values
        image = np.zeros(grid.shape, values.dtype)
        image[grid.box] = box
        return image

    sx, sy, sz = grid.spacing
    affine = np.array([[-sx, 0, 0, 0], [0, -sy, 0, FIELD_OF_VIEW[1] - 1], [0, 0, sz, 0], [0, 0, 0, 1]], float)
    volumes = {  # ml
        f"{name}_ml": round(float(np.count_nonzero(labels == value)) * float(np.prod(grid.spacing)) / 1000, 3)
        for name, value in (("necrosis", NECROSIS), ("oedema", OEDEMA), ("enhancing", ENHANCING))
    }
    row = {
        "participant_id": patient_id(config, number), "site": site.name, "tumour_ml": round(sum(volumes.values()), 3),
        **volumes, "enhances": lesions[0].rim > 0, "foci": len(lesions),
        "age_hyperintensities": head.lesions_of_age > 0, "side": "left" if lesions[0].centre[0] > 0 else "right",
    }  # fmt: skip
    facts = {"row": row, "scanner": asdict(site), "lesions": [lesion.facts() for lesion in lesions]}
    shown = {channel: whole(values) for channel, values in images.items()}
    tissues = {tissue: whole(part) for tissue, part in anatomy.tissues.items()}
    drawn = (labels > 0).astype(np.uint8) if easy else labels
    return Phantom(shown, whole(drawn), tissues, affine, facts)


def write_phantoms(config: PhantomConfig, out: Path, progress: bool = True) -> None:
    """Writes the cohort: one folder per patient (five .nii.gz, one .json), participants.tsv, dataset.json, README.md.

    Every patient's folder appears whole; run again after a kill, it skips the finished ones and ends with the same
    files. With more patients than last time it adds the new ones.

    Raises:
        UnderstudyError: `out` holds something else, or more patients than asked for; disk full, no permission.
    """
    if out.exists() and not out.is_dir():
        raise UnderstudyError("there is a file of this name", where=out, fix="choose a folder for the phantoms")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _claim(config, out)
        for leftover in out.glob(".Phantom*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        rows = []
        with track(config.patients, "phantoms", unit="patients", show=progress) as meter:
            for number in range(config.patients):
                folder = out / patient_id(config, number)
                facts = folder / f"{folder.name}.json"
                rows.append(read_json(facts)["row"] if facts.exists() else _write_patient(config, number, folder))
                meter.advance()
        # JSON sorts names: the columns have the order of the first of these
        columns = ["participant_id", "site", "tumour_ml", "necrosis_ml", "oedema_ml", "enhancing_ml"]
        columns += ["enhances", "foci", "age_hyperintensities", "side"]
        write_text(out / "participants.tsv", pd.DataFrame(rows, columns=columns).to_csv(sep="\t", index=False))


def _claim(config: PhantomConfig, out: Path) -> None:
    """Refuses a folder that holds something else; otherwise writes the description of these phantoms."""
    identity = {"drawing": DRAWING, **config.model_dump(mode="json"), "seed": config.drawn_by}
    identity.pop("patients")
    path = out / "dataset.json"
    if path.exists():
        known = read_json(path)
        if known.get("phantom") != identity:
            fix = "choose an empty folder, or delete this one"
            raise UnderstudyError("this folder holds phantoms of another configuration", where=path, fix=fix)
        if known.get("patients", 0) > config.patients:
            what = f"this folder already holds {known['patients']} phantoms, more than the {config.patients} asked for"
            raise UnderstudyError(what, where=path, fix="choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise UnderstudyError("the folder is not empty", where=out, fix="choose an empty folder for the phantoms")
    labels = {name: value for value, name in config.labels.items()}
    if not labels:
        labels = {
            "necrotic or non-enhancing core": 1,
            "oedema": 2,
            "enhancing": 4 if config.naming == "brats2018" else 3,
        }
    description = {
        "Name": "Understudy phantom cohort", "DatasetType": "raw",
        "Description": "Drawn by rule: no patient, no animal, no scanner. Not for any clinical conclusion.",
        "License": "CC0-1.0", "software": f"understudy {__version__}",
        "channels": {channel: suffix[1:] for channel, suffix in zip(CHANNELS, _SUFFIXES[config.naming], strict=False)},
        "labels": labels,
        "patients": config.patients, "phantom": identity,
    }  # fmt: skip
    write_json(path, description)
    write_text(out / "README.md", _README.format(version=__version__, seed=config.drawn_by, patients=config.patients))


def _write_patient(config: PhantomConfig, number: int, folder: Path) -> dict[str, Any]:
    """Writes one patient's folder, whole or not at all; returns its row of participants.tsv."""
    phantom = draw_patient(config, number)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    labels = phantom.labels
    if config.naming == "brats2023":
        labels = np.where(labels == ENHANCING, np.uint8(3), labels)
    volumes = [*(phantom.images[channel] for channel in CHANNELS), labels]
    try:
        temporary.mkdir()
        for suffix, values in zip(_SUFFIXES[config.naming], volumes, strict=True):
            image = nib.Nifti1Image(values, phantom.affine)
            image.header.set_xyzt_units("mm")
            image.header["descrip"] = f"Understudy phantom, seed {config.drawn_by}"[:80].encode()
            nib.save(image, temporary / f"{folder.name}{suffix}.nii.gz")
        write_json(temporary / f"{folder.name}.json", phantom.facts)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return phantom.facts["row"]


_README = """# A phantom cohort

Drawn by Understudy {version} with seed {seed} ({patients} patients): **nobody's brain**. The volumes imitate
skull-stripped MR of brain tumours in the layout of BraTS, so that a study can be tried from end to end without patient
data. Draw no clinical conclusion from them.

- One folder per patient: T1w, T1w with gadolinium, T2w, FLAIR (float32, arbitrary units, 0 outside the brain), `seg`.
- Labels: as `dataset.json` says.
- `participants.tsv`: site, volumes (ml), whether the tumour enhances, number of foci, age-related hyperintensities.
- `<patient>.json`: the scanner and the lesions as drawn. `dataset.json`: the configuration, to draw the cohort again.
"""
