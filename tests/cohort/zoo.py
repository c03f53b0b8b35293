"""Cohorts as they lie on people's disks, in small: smooth heads with a lesion whose place is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from understudy.cohort.checks import check_cohort
from understudy.cohort.config import Cohort, CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.prepare import prepare
from understudy.cohort.slicing import SliceConfig
from understudy.slices import SliceSet

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (16, 16, 6)
BOX = (slice(9, 12), slice(4, 6), slice(2, 4))  # where the lesion is, as stored
BRATS = ("t1", "t1ce", "t2", "flair")
BRATS_2023 = ("t1n", "t1c", "t2w", "t2f")


def image(number: int, channel: int) -> NDArray[np.int16]:
    """A head; its brightness tells whose and which sequence."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    head = np.where(x**2 + y**2 < 0.8, 500 + 40 * channel + number, 0)
    head[BOX] = 900 + 10 * channel
    return head.astype(np.int16)


def annotation(*values: int) -> NDArray[np.uint8]:
    """The lesion with one value, or with several in turn along its first axis."""
    labels = np.zeros(SHAPE, np.uint8)
    for i, value in enumerate(values or (1,)):
        labels[BOX][i:] = value
    return labels


def put(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64] = LPS) -> None:
    """Writes one file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def brats(
    root: Path, patients: Iterable[str], names: Iterable[str] = BRATS, sep: str = "_", ending: str = ".nii.gz"
) -> None:
    """Folders `root/patient` with four sequences and an annotation; a name may have folders above it."""
    values = (2, 4, 1) if sep == "_" else (2, 3, 1)
    for number, patient in enumerate(patients):
        stem = root / patient / Path(patient).name
        for channel, name in enumerate(names):
            put(Path(f"{stem}{sep}{name}{ending}"), image(number, channel))
        put(Path(f"{stem}{sep}seg{ending}"), annotation(*values))


def nnunet(root: Path, cases: Iterable[str], dataset: str, channels: int = 2, ending: str = ".nii.gz") -> None:
    """imagesTr and labelsTr beside a dataset.json with the given text."""
    for number, case in enumerate(cases):
        for channel in range(channels):
            put(root / f"imagesTr/{case}_{channel:04d}{ending}", image(number, channel))
        put(root / f"labelsTr/{case}{ending}", annotation(2, 1))
    (root / "dataset.json").write_text(dataset)


def bids(
    root: Path, subjects: Iterable[str], suffixes: Iterable[str] = ("T1w", "FLAIR"), mask: str = "label-lesion_mask"
) -> None:
    """sub-*/anat with masks in derivatives; "01/ses-a" is a session."""
    for number, subject in enumerate(subjects):
        folder = f"sub-{subject}/anat"
        stem = f"sub-{subject}".replace("/", "_")
        for channel, suffix in enumerate(suffixes):
            put(root / folder / f"{stem}_{suffix}.nii.gz", image(number, channel))
            (root / folder / f"{stem}_{suffix}.json").write_text("{}")
        put(root / "derivatives/manual" / folder / f"{stem}_{mask}.nii.gz", annotation())
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')


def patterned(root: Path, files: Mapping[str, str], patients: Iterable[str]) -> None:
    """Files by name of the sequence; "labels" is the annotation, {p} the patient."""
    for number, patient in enumerate(patients):
        for channel, (name, file) in enumerate(files.items()):
            voxels = annotation() if name == "labels" else image(number, channel)
            put(root / file.format(p=patient), voxels)


def found(root: Path, **fields: Any) -> Cohort:
    return find_patients(CohortConfig.model_validate({"path": root, **fields}))


def named(cohort: Cohort, patient: int = 0) -> dict[str, str]:
    """Sequence or "labels" -> file below the cohort's folder, of one patient."""
    own = cohort.patients[patient]
    files = {**own.images, **({"labels": own.labels} if own.labels else {})}
    return {name: path.relative_to(cohort.path).as_posix() for name, path in files.items()}


def ids(cohort: Cohort) -> list[str]:
    return [patient.id for patient in cohort.patients]


def classes(cohort: Cohort) -> dict[int, str]:
    return {entry.source: entry.name for entry in cohort.classes[1:]}


def sliced(cohort: Cohort, out: Path) -> SliceSet:
    """The cohort's slices; the last patient tests. `check` must have found no error."""
    channel = cohort.channels[0]
    slicing = SliceConfig(resolution=16, scaling="max", rule_channel=channel, keep="all")
    problems = check_cohort(cohort, slicing, progress=False).problems
    assert [p for p in problems if p.severity == "error"] == []
    people = [p.id for p in cohort.patients]
    split = dict.fromkeys(people, "train") | {people[-1]: "test"}
    prepare(cohort, split, slicing, out, progress=False)
    return SliceSet.open(out / "slices")


def assert_lesions_lie_where_they_were_put(slices: SliceSet) -> None:
    """Rows run to posterior and columns to the left, as the stored LPS axes y and x."""
    truth = np.zeros(SHAPE, bool)
    truth[BOX] = True
    labels = slices.read(np.arange(len(slices)))[1]
    for z, drawn in zip(slices.index["z"], labels > 0, strict=True):
        assert np.array_equal(drawn, truth[:, :, z].T)


V1 = '{"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "edema", "2": "core"}, "training": []}'
V2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "edema": 1, "core": 2},
    "file_ending": ".nii.gz",
    "numTraining": 4,
}
