"""What a training selects its best weights on: real patients, slices, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.segmenters.config import SegmenterTrainingConfig
from understudy.segmenters.mixing import Mixture, Source, channel_order, class_table
from understudy.segmenters.predict import Segmenter
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

CACHE_BYTES = 1 << 29  # validation volumes stay in memory up to this size

Labels = NDArray[np.uint8]
Patient = tuple[NDArray[np.uint8], Labels, NDArray[np.bool_]]  # kept images, truth, which slices are kept


def validation_for(
    config: SegmenterTrainingConfig, mixture: Mixture, held_out: VolumeSet | SliceSet | None
) -> PatientValidation | SliceValidation:
    """Real patients for every training, so that all settings are selected on the same; with `same_as_training`,
    synthetic slices for a training on such alone, which are taken out of the mixture."""
    if config.validation == "same_as_training" and set(mixture.sources) == {"synthetic"}:
        source, rows = mixture.hold_out(0.2, config.validation_slices)  # the paper's share of images
        return SliceValidation(source, rows, mixture.classes, "synthetic")
    if isinstance(held_out, SliceSet):
        rows = np.arange(len(held_out))
        return SliceValidation(Source(held_out, rows, mixture.channels, mixture.classes), rows, mixture.classes, "real")
    return PatientValidation(held_out, mixture)


class PatientValidation:
    """Mean 3D Dice over the validation patients at the network's resolution; slices that the rule drops stay empty."""

    def __init__(self, volumes: VolumeSet | None, mixture: Mixture) -> None:
        self.volumes, self.classes = volumes, mixture.classes
        self.subjects = volumes.subjects("val") if volumes else []
        # what the data are, for the result
        self.record: dict[str, Any] = {"kind": "real" if self.subjects else "none", "patients": len(self.subjects)}
        self._cache: dict[str, Patient] = {}
        self._cached = 0
        if volumes and self.subjects:
            self._order = channel_order(volumes.channels, mixture.channels, volumes.path)
            self._table = class_table([c.name for c in volumes.classes], mixture.classes, volumes.path)

    def __bool__(self) -> bool:
        return bool(self.subjects)

    def _read(self, subject: str) -> Patient:
        if subject in self._cache:
            return self._cache[subject]
        assert self.volumes is not None
        volume = self.volumes.read(subject)
        truth = self._table[volume.labels_at_network(len(self.volumes.classes))]
        found = np.ascontiguousarray(volume.images[volume.kept][:, self._order]), truth, volume.kept
        if self._cached + found[0].nbytes <= CACHE_BYTES:
            self._cache[subject], self._cached = found, self._cached + found[0].nbytes
        return found

    def _cases(self, model: Segmenter) -> Iterator[tuple[Labels, Labels]]:
        """Prediction and truth of each case."""
        for subject in self.subjects:
            images, truth, kept = self._read(subject)
            pred = np.zeros_like(truth)
            if kept.any():
                pred[kept] = model.probabilities(images).argmax(1).numpy()
            yield pred, truth

    def __call__(self, model: Segmenter) -> tuple[dict[str, float], int]:
        """({"val_dice": mean over classes and cases, "val_dice_<class>": ...}, foreground pixels predicted)."""
        scores, found = [], 0
        for pred, truth in self._cases(model):
            found += int((pred > 0).sum())
            scores.append([dice(pred == k, truth == k) for k in range(1, len(self.classes))])
        each = np.array(scores).mean(axis=0)  # [classes]
        named = {f"val_dice_{name}": float(value) for name, value in zip(self.classes[1:], each, strict=True)}
        return {"val_dice": float(each.mean()), **named}, found


class SliceValidation(PatientValidation):
    """Mean Dice over `rows` of a source of slices, each a case; kind: "synthetic" or "real"."""

    def __init__(self, source: Source, rows: NDArray[np.int64], classes: tuple[str, ...], kind: str) -> None:
        self.source, self.rows, self.classes = source, rows, classes
        self.record = {"kind": kind, "slices": len(rows)}

    def __bool__(self) -> bool:
        return len(self.rows) > 0

    def _cases(self, model: Segmenter) -> Iterator[tuple[Labels, Labels]]:
        for start in range(0, len(self.rows), 64):
            images, truth = self.source.read(self.rows[start : start + 64])
            yield from zip(model.probabilities(np.ascontiguousarray(images)).argmax(1).numpy(), truth, strict=True)


def dice(pred: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|), 1 where both are empty."""
    size = int(pred.sum()) + int(target.sum())
    return 2 * int((pred & target).sum()) / size if size else 1.0
