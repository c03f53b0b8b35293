"""One patient's files, opened and judged: what `check` reports is what stops `prepare`, because both read here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.config import Cohort, Patient, Problem, Severity
from understudy.errors import UnderstudyError
from understudy.exchange.spec import LABELS
from understudy.io.foreign import not_finite
from understudy.io.grids import Plane, VolumeHeader, judge_pixels, slices_of
from understudy.io.nifti import Digest, read_header, read_voxels, whole_numbers
from understudy.slices import LabelClass

# Interpolation undershoots a little below zero; a z-scored volume is negative for about half of its tissue.
_TOLERATED_NEGATIVE = 0.01  # fraction of the voxels
_TOLERATED_UNDERSHOOT = 0.05  # of the maximum
_MOST_ANNOTATED = 0.5  # of a volume's voxels: a head fills about half of its field of view


class PatientReader:
    """Headers of all files of a patient, and their voxels on demand; whatever is wrong goes to `problems`."""

    def __init__(self, patient: Patient, cohort: Cohort, plane: Plane) -> None:
        self.patient, self.cohort, self.files = patient, cohort, patient.files
        self.problems: list[Problem] = _missing_and_surplus(patient)  # reading on finds more
        self.headers: dict[str, VolumeHeader] = {}  # of the files that can be opened
        self.header: VolumeHeader | None = None  # of the grid that most files are on
        self.off_grid: set[str] = set()  # names of the files on other grids, each of which is a problem
        self.sliceable = True  # slices in the plane have nearly square pixels
        for name, path in self.files.items():
            try:
                self.headers[name] = read_header(path, plane=plane)
            except UnderstudyError as error:
                self.add(name, error.what, error.fix)
        doubts = {doubt: name for name in reversed(self.headers) for doubt in self.headers[name].doubts}
        for (what, fix), name in doubts.items():  # once, though all files may share it
            self.add(name, what, fix, "warning")
        if self.headers:
            self._compare_grids()

    def add(self, name: str, what: str, fix: str | None, severity: Severity = "error") -> UnderstudyError:
        """Notes a problem of a file; returns it as an error."""
        self.problems.append(Problem(self.patient.id, self.files[name], what, fix or "replace the file", severity))
        return self.problems[-1].as_error()

    def refuse_errors(self) -> None:
        """Raises the first error found so far."""
        if error := next((problem for problem in self.problems if problem.severity == "error"), None):
            raise error.as_error()

    def image(self, channel: str, digest: Digest | None = None) -> NDArray[Any]:
        """The voxels of a channel [Z, H, W], in the type they are stored in; `digest` gets the file's bytes.

        What cannot be used is raised, and is among the `problems`.
        """
        slices = self._slices(channel, digest)
        if found := _judge_image(channel, slices):
            error = self.add(channel, *found)
            if found[-1] == "error":
                raise error
        return slices

    def labels(self, digest: Digest | None = None) -> NDArray[np.uint8]:
        """Class indices [Z, H, W]; see `image`."""
        stored, path = self._slices(LABELS, digest), self.files[LABELS]
        try:
            indices = class_indices(whole_numbers(stored, path), self.cohort.classes, path)
        except UnderstudyError as error:
            raise self.add(LABELS, error.what, error.fix) from error
        share = np.count_nonzero(indices) / indices.size
        if stored.dtype.kind == "f":
            what = f"the annotation is stored as {stored.dtype.name}, though all values are whole"
            self.add(LABELS, what, "nothing to do; saved as uint8 it would be smaller", "warning")
        if share > _MOST_ANNOTATED:
            fix = "look at it in a viewer: is it inverted, or a mask of the brain?"
            self.add(LABELS, f"{share:.0%} of all voxels are annotated", fix, "warning")
        if share == 0:
            fix = "nothing, if there is no lesion; else replace it"
            self.add(LABELS, "the annotation is empty (background only)", fix, "warning")
        return indices

    def _slices(self, name: str, digest: Digest | None) -> NDArray[Any]:
        if name not in self.headers:
            self.refuse_errors()
            raise Problem(self.patient.id, Path(name), f"no {name}", "add it").as_error()
        try:
            return slices_of(read_voxels(self.files[name], self.headers[name], digest), self.headers[name])
        except UnderstudyError as error:
            raise self.add(name, error.what, error.fix) from error

    def _compare_grids(self) -> None:
        """Compares all grids with the one that most files are on, and judges its pixels."""

        def agreement(name: str) -> tuple[int, bool]:
            own = self.headers[name]
            return sum(own.same_grid(other) for other in self.headers.values()), own.positioned

        reference = max(self.headers, key=agreement)
        self.header = on_grid = self.headers[reference]
        self.off_grid = {name for name, header in self.headers.items() if not on_grid.same_grid(header)}
        of_reference = _named(reference)
        for name, header in list(self.headers.items()):
            if name not in self.off_grid:
                if header.positioned != on_grid.positioned:
                    what = f"{_named(name)} has no position; its array is taken as that of {of_reference}"
                    self.add(name, what, f"look at both in a viewer; give it the header of {of_reference}", "warning")
                elif header.axes != on_grid.axes:
                    what = f"{_named(name)} is stored as {header.axes}, {of_reference} as {on_grid.axes}"
                    self.add(name, what, "nothing to do: each file is turned by its own header", "warning")
                self.headers[name] = header.like(on_grid)
                continue
            if header.shape != on_grid.shape:
                shapes = ["x".join(map(str, h.shape)) for h in (header, on_grid)]
                what = f"{_named(name)} has shape {shapes[0]}, {of_reference} {shapes[1]}"
                self.add(name, what, "resample it onto the grid of the other files")
                continue
            what, alike = self._other_position(name, reference), header.stored_alike(on_grid)
            if alike and self.cohort.trust_array_order:
                fix = "nothing, if you know that the arrays align: `trust_array_order` is set"
                self.add(name, what, fix, "warning")
                self.headers[name] = replace(header, affine=on_grid.affine).like(on_grid)
                self.off_grid.remove(name)
            else:
                trust = ", or set `trust_array_order: true` if the arrays align" if alike else ""
                self.add(name, what, f"look at both in a viewer; correct the header{trust}")
        for what, fix, severity in judge_pixels(on_grid):
            self.add(reference, what, fix, severity)
            self.sliceable = severity != "error"

    def _other_position(self, name: str, reference: str) -> str:
        """Same shape, other position in the world: wrong header or wrong data, which only the user can know.

        Of an annotation also how much of it lies on tissue by the array and by the header: a hint at which is right.
        """
        one, other = self.headers[name], self.headers[reference]
        apart = other.voxels_apart(one)
        far = "" if apart == float("inf") else f" by up to {apart:.3g} voxels"
        what = f"the affines of {_named(name)} ({one.axes}) and {_named(reference)} ({other.axes}) differ{far}"
        if name != LABELS:
            return what
        try:
            labels, image = (read_voxels(self.files[n], self.headers[n]) for n in (LABELS, reference))
        except UnderstudyError:
            return what  # reported when the file is read
        annotated = int(np.count_nonzero(labels))
        if not annotated:
            return what
        stored = np.count_nonzero(image[labels != 0]) / annotated
        what += f" ({stored:.0%} of the annotation lies on non-zero voxels as stored"
        turned, by_header = slices_of(labels, one) != 0, slices_of(image, other)
        if turned.shape == by_header.shape:
            what += f", {np.count_nonzero(by_header[turned]) / annotated:.0%} by the headers"
        return what + ")"


def class_indices(slices: NDArray[Any], classes: tuple[LabelClass, ...], path: Path) -> NDArray[np.uint8]:
    """Source label values [Z, H, W], integers -> class indices uint8 [Z, H, W]; refuses a value that no class has."""
    indices = np.zeros(slices.shape, np.uint8)
    for target, plane in zip(indices, slices, strict=True):
        known = np.count_nonzero(plane == 0)
        if known == plane.size:  # many planes are empty
            continue
        for index, entry in enumerate(classes[1:], start=1):
            here = plane == entry.source
            target[here] = index
            known += np.count_nonzero(here)
        if known < plane.size:
            unexpected = sorted(set(np.unique(slices).tolist()) - {entry.source for entry in classes})
            more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
            expected = ", ".join(f"{c.source} ({c.name})" for c in classes)
            what = f"unexpected label {', '.join(map(str, unexpected[:5]))}{more}; expected {expected}"
            raise UnderstudyError(
                what, path, "correct the file, or name all label values under `classes` of the cohort"
            )
    return indices


def _judge_image(name: str, voxels: NDArray[Any]) -> tuple[str, str, Severity] | None:
    """What is wrong with a volume [Z, H, W]: NaN, infinite, empty, constant or negative."""
    if bad := not_finite(voxels):
        return f"{name} holds {bad} (slice, row, column)", "export it again, or set these voxels to 0", "error"
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        kind = "is empty (all zeros)" if low == 0 else f"is constant (all {low:g})"
        return f"{name} {kind}", "replace it by the real image", "error"
    if low >= 0:
        return None
    share = np.count_nonzero(voxels < 0) / voxels.size
    if share > _TOLERATED_NEGATIVE or low < -_TOLERATED_UNDERSHOOT * high:
        what = f"{name} is negative in {share:.1%} of its voxels (minimum {low:g}, maximum {high:g})"
        return what, "use intensities before z-scoring, or shift them so that the background is 0", "error"
    what = f"{name} is slightly negative in {share:.2%} of its voxels (minimum {low:g})"
    return what, "nothing, if this comes from interpolation: these voxels become 0", "warning"


def _named(name: str) -> str:
    return "the annotation" if name == LABELS else name


def _missing_and_surplus(patient: Patient) -> list[Problem]:
    problems = []
    known = {path.name for path in patient.files.values()}
    for name, path in patient.missing.items():
        try:
            others = sorted(p.name for p in path.parent.glob("*.nii*"))
        except OSError:  # an unreadable folder is a problem of its own
            others = []
        # BraTS 2020 ships one annotation under a name of its own (patient 355).
        strange = [other for other in others if other not in known and not other.startswith(".")]
        hint = f" (or rename {strange[0]}, if it is this one)" if strange else ""
        what = "no annotation" if name == LABELS else f"no {name} image"
        problems.append(Problem(patient.id, path, what, f"add {path.name}{hint}, or leave the patient out"))
    for name, paths in patient.surplus.items():
        names = [path.name for path in (patient.files[name], *paths)]
        what = f"{len(names)} files match {name}: {', '.join(names)}"
        fix = "keep one, or name one by a narrower pattern, in BIDS by its entities (`channels: {T1w: run-1_T1w}`)"
        problems.append(Problem(patient.id, paths[0], what, fix))
    return problems
