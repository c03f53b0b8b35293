"""DICOM: read by pydicom and dcm2niix, with the geometry, values and classes of the set; nothing of a patient in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.release.dicom import export_dicom
from understudy.release.package import Released
from understudy.release.words import Words, secrets_of
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter

CHANNELS, EDGE = ("T1w", "T1w/Gd"), 16
CLASSES = (BACKGROUND, LabelClass("NCR/NET", 1, 51), LabelClass("Ödem\\x", 2, 102))
SPACING = (0.9, 0.8, 1.5)
# direction of rows and columns -> of columns and rows in DICOM (x to the left, y to the back, z to the head)
DIRECTIONS = {
    ("P", "L"): [1, 0, 0, 0, 1, 0], ("A", "R"): [-1, 0, 0, 0, -1, 0], ("I", "L"): [1, 0, 0, 0, 0, -1],
    ("S", "P"): [0, 1, 0, 0, 0, 1],
}  # fmt: skip


def samples(path: Path, axes: tuple[str, str] | None = ("P", "L"), n: int = 3, **attrs: str) -> SliceSet:
    rng = np.random.default_rng(0)
    writer = SliceWriter(path, CHANNELS, CLASSES, EDGE, SPACING if axes else None, axes)
    images, labels = rng.integers(0, 256, (n, 2, EDGE, EDGE), np.uint8), rng.integers(0, 3, (n, EDGE, EDGE), np.uint8)
    labels[0] = 0
    writer.append(images, labels, [{"id": f"gan-{i}"} for i in range(n)])
    return writer.close(**(attrs or {"source": "synthetic"}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SliceSet, Path]:
    root = tmp_path_factory.mktemp("dicom")
    slices = samples(root / "set")
    export_dicom(slices.path, root / "out", progress=False)
    return slices, root / "out"


def test_values_and_classes_are_those_of_the_set(made: tuple[SliceSet, Path]) -> None:
    slices, out = made
    images, labels = slices.read(slice(None))
    assert sorted(p.name for p in out.iterdir()) == ["syn000000", "syn000001", "syn000002"]
    for row in range(3):
        folder = out / f"syn{row:06d}"
        assert sorted(p.name for p in folder.iterdir()) == ["SEG.dcm", "T1w.dcm", "T1w_Gd.dcm"]
        for channel, name in enumerate(("T1w", "T1w_Gd")):
            read = pydicom.dcmread(folder / f"{name}.dcm")
            np.testing.assert_array_equal(read.pixel_array, images[row, channel])
            assert (read.WindowCenter, read.WindowWidth) == (128, 256)
        marked = highdicom.seg.segread(folder / "SEG.dcm")
        named = {n: marked.get_segment_description(n).segment_label for n in marked.segment_numbers}
        assert named == {1: "NCR/NET", 2: "Ödem_x"}
        found = marked.get_pixels_by_source_instance([read.SOPInstanceUID], combine_segments=True)
        np.testing.assert_array_equal(found[0], labels[row])


def test_every_object_says_that_it_is_synthetic_and_not_released(made: tuple[SliceSet, Path]) -> None:
    seen: list[str] = []
    for path in sorted(made[1].rglob("*.dcm")):
        read = pydicom.dcmread(path)
        assert read[0x0008, 0x001C].value == "YES"
        assert "NOT RELEASED" in read.SeriesDescription
        assert "NOT RELEASED" in read.ImageComments
        seen += [read.SOPInstanceUID, read.SeriesInstanceUID]
    assert len(set(seen)) == len(seen) == 18
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in made[1].rglob("*.dcm")}
    assert len(studies) == 3


def test_uids_are_drawn_anew(made: tuple[SliceSet, Path], tmp_path: Path) -> None:
    export_dicom(made[0].folder, tmp_path / "again", progress=False)
    tags = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    first, second = ({str(pydicom.dcmread(p)[tag].value) for p in folder.rglob("*.dcm") for tag in tags}
                     for folder in (made[1], tmp_path / "again"))  # fmt: skip
    assert not first & second


@pytest.mark.parametrize("axes", DIRECTIONS)
def test_geometry_is_that_of_the_set(tmp_path: Path, axes: tuple[str, str]) -> None:
    export_dicom(samples(tmp_path / "set", axes, 1).folder, tmp_path / "out", progress=False)
    image = pydicom.dcmread(tmp_path / "out/syn000000/T1w.dcm")
    assert list(image.ImageOrientationPatient) == DIRECTIONS[axes]
    assert (list(image.PixelSpacing), image.SliceThickness) == ([0.9, 0.8], 1.5)
    across, down = np.split(np.array(image.ImageOrientationPatient, float), 2)
    centre = np.array(image.ImagePositionPatient, float) + 7.5 * (0.8 * across + 0.9 * down)
    np.testing.assert_allclose(centre, 0, atol=1e-6)


def test_dcm2niix_gives_the_slice_back(made: tuple[SliceSet, Path], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("dcm2niix")
    command = [program, "-b", "n", "-f", "%s", "-z", "n", "-o", tmp_path, made[1] / "syn000001"]
    subprocess.run(command, check=True, capture_output=True)
    read = nib.load(tmp_path / "1.nii")
    np.testing.assert_allclose(read.header.get_zooms(), (0.8, 0.9, 1.5))
    data = nib.as_closest_canonical(read).get_fdata()[..., 0]  # x to the right, y to the front
    np.testing.assert_array_equal(data[::-1, ::-1].T, made[0].read([1])[0][0, 0])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="Debian's dicom3tools is not installed")
def test_dciodvfy_finds_only_the_tag_that_is_younger_than_itself(made: tuple[SliceSet, Path]) -> None:
    for path in sorted(made[1].rglob("*.dcm")):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert all("0x0008,0x001c" in line for line in errors), errors


def test_only_synthetic_slices_with_a_geometry_go_out(tmp_path: Path) -> None:
    for slices in (samples(tmp_path / "read", source="folder"), samples(tmp_path / "flat", axes=None)):
        with pytest.raises(UnderstudyError):
            export_dicom(slices.folder, tmp_path / "out", progress=False)
    marked = samples(tmp_path / "marked")
    real = SliceSet.from_arrays(*marked.read([0, 1]), patients=["a", "b"], classes=CLASSES, spacing=SPACING)
    real.axes, real.attrs = ("P", "L"), {"source": "synthetic"}
    real.save(tmp_path / "real")
    with pytest.raises(UnderstudyError, match="not known to be synthetic"):
        export_dicom(tmp_path / "real", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_package_goes_out_without_anything_of_its_patients(
    exportable: tuple[Released, dict[str, Path]], tmp_path: Path
) -> None:
    done, inputs = exportable
    shown = CliRunner().invoke(app, ["export", "dicom", str(done.path), str(tmp_path / "out"), "-q"])
    assert (shown.exit_code, "root hash" in shown.output) == (0, True), shown.output
    words = Words(secrets_of([SliceSet.open(inputs["real"])], [tmp_path, done.path, *inputs.values()]))
    assert words.found_in(f"of Patient_T1 in {tmp_path}")  # what is looked for is found where it is
    paths = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(paths) == 3 * done.certificate["data"]["slices"]
    said: set[str] = set()  # but UIDs, which are drawn
    for path in paths:
        read = pydicom.dcmread(path)
        assert done.root in read.ImageComments
        elements = [*read.iterall(), *read.file_meta]
        said |= {f"{e.name}: {e.value}" for e in elements if e.VR not in ("UI", "SQ", "OB", "OW")}
        said.add(str(path.relative_to(tmp_path)))
    assert not any("NOT RELEASED" in text for text in said)
    assert [hit for text in sorted(said) for hit in words.found_in(text)] == []
