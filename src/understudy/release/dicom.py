"""Synthetic slices as DICOM: an MR image for each channel, and a segmentation (SEG) that names the classes.

Each slice is a study of its own, of a patient of its own who does not exist: slices do not belong together, and a
viewer must not stack them. Every object says `SyntheticData` (0008,001C) = YES; its UIDs are drawn anew; no tag comes
from a patient, a scanner or this machine. MR Image Storage, and not Secondary Capture, since it has a geometry.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.export import new_folder
from understudy.release.outgoing import Outgoing, Pixels, outgoing
from understudy.runtime.progress import track

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION = "SEG"  # name of its file
_TOWARDS = {  # direction of an axis of a slice in DICOM's patient system, whose x runs to the left and y to the back
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip


def export_dicom(
    source: str | Path, out: str | Path, progress: bool = True, root: str | None = None, key: Path | None = None
) -> Outgoing:
    """Writes `out/<id>/<CHANNEL>.dcm` and `out/<id>/SEG.dcm` for each slice of a package, or of samples of a generator.

    Grey values are those of the slices, 0 to 255 in 16 bits, as MR Image Storage wants it. What was not released says
    so in the name of each series and in each image. `root`, `key`: of a package, as for `verify`.

    Raises:
        UnderstudyError: `source` is neither intact nor synthetic, its slices have no pixel size or no directions, `out`
            is not empty, pydicom and highdicom are not installed, disk full.
    """
    _installed()
    given = outgoing(source, root, key)
    if given.data["spacing"] is None or given.data["axes"] is None:
        fix = "use slices of a generator that was trained on volumes with a geometry"
        raise UnderstudyError("the slices have no pixel size or no directions, which DICOM needs", source, fix)
    names = _file_names([*given.data["channels"]])
    with new_folder(out) as folder, track(given.data["slices"], "writing", "slices", show=progress) as meter:
        for name, image, labels in given.slices():
            (folder / name).mkdir()
            shared = _shared(given, name)
            for number, (channel, pixels) in enumerate(zip(names, image, strict=True), start=1):
                written = _mr_image(shared, given, number, pixels)
                written.save_as(folder / name / f"{channel}.dcm", enforce_file_format=True)
            _segmentation(written, given, labels).save_as(folder / name / f"{SEGMENTATION}.dcm")
            meter.advance(1)
    return given


def _installed() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        fix = "pip install 'understudy-mri[dicom]'"
        raise UnderstudyError("DICOM needs the packages pydicom and highdicom", fix=fix) from error


def _file_names(channels: list[str]) -> list[str]:
    names = [re.sub(r"[^A-Za-z0-9_-]+", "_", channel).strip("_") or "channel" for channel in channels]
    alike = len({*map(str.lower, names), SEGMENTATION.lower()}) <= len(names)
    return [f"{name}_{i}" for i, name in enumerate(names)] if alike else names


def _text(value: str, longest: int = 64) -> str:
    """As a text of DICOM may be: no backslash, which separates values, no control characters, not too long."""
    return re.sub(r"[\\\x00-\x1f\x7f]", "_", value)[:longest].strip()


def _shared(given: Outgoing, name: str) -> Dataset:
    """What all objects of a slice say: patient, study, frame of reference, equipment, position."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    data, of = Dataset(), given.data
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SyntheticData = "YES"
    data.PatientName, data.IssuerOfPatientID = f"Synthetic^{name}", "Understudy"
    data.PatientID = f"{given.root[:8]}-{name}"  # slices of two packages are not of one patient
    data.PatientBirthDate = data.PatientSex = ""
    data.StudyInstanceUID, data.FrameOfReferenceUID = generate_uid(None), generate_uid(None)  # random, of a UUID
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.StudyID, data.StudyDescription = name, "Synthetic slice"
    data.PositionReferenceIndicator = data.PatientPosition = data.Laterality = ""
    data.Manufacturer = data.ManufacturerModelName = "Understudy"
    data.DeviceSerialNumber, data.SoftwareVersions = "none", __version__
    height, width, depth = (float(x) for x in of["spacing"])
    down, right = (np.array(_TOWARDS[axis], float) for axis in of["axes"])
    middle = (of["resolution"] - 1) / 2  # the centre of the slice is the origin
    corner = -middle * (down * height + right * width)
    data.ImageOrientationPatient = [*right.tolist(), *down.tolist()]
    data.ImagePositionPatient = [round(x, 6) + 0.0 for x in corner.tolist()]
    data.PixelSpacing, data.SliceThickness = [height, width], depth
    return data


def _mr_image(shared: Dataset, given: Outgoing, number: int, pixels: Pixels) -> Dataset:
    """MR Image Storage of channel `number`, counted from 1; pixels uint8 [H, W]."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    data: Any = shared.copy()
    channel = given.data["channels"][number - 1]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
        MRImageStorage,
        generate_uid(None),
        generate_uid(None),
    )
    data.Modality, data.SeriesNumber, data.InstanceNumber = "MR", number, 1
    data.SeriesDescription = _series(given, channel)
    data.ImageType, data.ContentQualification = ["DERIVED", "SECONDARY", "OTHER"], "RESEARCH"
    data.DerivationDescription, data.ImageComments = "Drawn from a generative model", _text(given.statement, 10240)
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.ScanningSequence, data.SequenceVariant = "RM", "NONE"  # no scanner has made it
    data.ScanOptions = data.MRAcquisitionType = data.EchoTime = data.RepetitionTime = data.EchoTrainLength = None
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 8, 7, 0
    data.WindowCenter, data.WindowWidth = 128, 256
    data.PixelData = pixels.astype("<u2").tobytes()
    return data


def _series(given: Outgoing, what: str) -> str:
    mark = "synthetic" if given.released else "synthetic, NOT RELEASED"
    return f"{_text(what, 60 - len(mark))} ({mark})"


def _segmentation(image: Dataset, given: Outgoing, labels: Pixels) -> Dataset:
    """The annotation uint8 [H, W] of the slice that `image` shows."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    how = AlgorithmIdentificationSequence("Understudy", Code("123110", "DCM", "Artificial Intelligence"), __version__)
    segments = [
        SegmentDescription(
            k, _text(entry["name"]), Code("309825002", "SCT", "Spatial and Relational Concept"),
            Code(f"class-{k}", "99UNDERSTUDY", _text(entry["name"])), "AUTOMATIC", how,
        )
        for k, entry in enumerate(given.data["classes"][1:], start=1)
    ]  # fmt: skip
    made: Any = Segmentation(
        [image], labels[None], "BINARY", segments, generate_uid(None), len(given.data["channels"]) + 1,
        generate_uid(None), 1, "Understudy", "Understudy", __version__, "none",
        content_description=_text(given.statement), series_description=_series(given, "annotation"),
        omit_empty_frames=False,
    )  # fmt: skip
    made.SyntheticData, made.ContentQualification = "YES", "RESEARCH"
    made.ImageComments = _text(given.statement, 10240)
    return made
