"""The search that decides: moved, warped and blended copies, copied lesions; who says so, and on how many threads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from made import heads
from scipy.ndimage import affine_transform, shift

from understudy.memorization.copies import Copies
from understudy.memorization.frames import FRAME, pose, warp
from understudy.memorization.lesions import Lesions, covered, regions
from understudy.memorization.registration import affine
from understudy.memorization.windows import Windows
from understudy.roles import UnfitSets, part_of
from understudy.slices import SliceSet

EDGE, PATIENTS = 32, 6


def set_of(images: np.ndarray, labels: np.ndarray, patients: list[str]) -> SliceSet:
    return SliceSet.from_arrays(images, labels, patients=patients)


@pytest.fixture(scope="module")
def training() -> SliceSet:
    made = [heads(p, 6, edge=EDGE) for p in range(PATIENTS)]
    names = [f"T{p}" for p in range(PATIENTS) for _ in range(6)]
    return set_of(np.concatenate([m[0] for m in made]), np.concatenate([m[1] for m in made]), names)


@pytest.fixture(scope="module")
def known(training: SliceSet) -> Copies:
    return Copies(part_of("training", training))


def searched(known: Copies, images: np.ndarray, labels: np.ndarray | None = None) -> pd.DataFrame:
    labels = np.zeros_like(images[:, 0]) if labels is None else labels
    return known.search(part_of("synthetic", set_of(images, labels, ["x"] * len(images))))


def turned(image: np.ndarray, degrees: float, by: tuple[float, float]) -> np.ndarray:
    angle, middle = np.deg2rad(degrees), np.full(2, (EDGE - 1) / 2)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    planes = [affine_transform(c.astype(float), back, middle - back @ (middle + by), order=1) for c in image]
    return np.clip(planes, 0, 255).astype(np.uint8)


def test_moved_mirrored_and_blended_copies_are_nearer_than_new_patients_and_name_their_slice(
    training: SliceSet, known: Copies
) -> None:
    strangers = np.concatenate([heads(100 + p, 1, edge=EDGE)[0] for p in range(30)])
    chance = searched(known, strangers)["copy.score"].max()
    some, images = np.arange(0, 36, 3), training.images
    changed = {
        "turned and moved": np.stack([turned(images[i], 9, (2, -1.5)) for i in some]),
        "mirrored": images[some][..., ::-1].copy(),
        "other contrast": (255 * (images[some] / 255) ** 0.7).astype(np.uint8),
        "blended": (0.55 * images[some] + 0.45 * np.roll(images[some], 4, 0)).astype(np.uint8),
    }
    for name, copies in changed.items():
        found = searched(known, copies)
        assert (found["copy.score"] > chance).mean() >= 0.9, name
        assert (found["copy.row"] == some).mean() >= 0.9, name
    assert (searched(known, changed["blended"])["copy.kind"] == "blended").mean() > 0.8
    assert (searched(known, changed["mirrored"])["copy.transform"] == 4).mean() > 0.8


def test_the_number_of_threads_changes_nothing(training: SliceSet) -> None:
    images = np.concatenate([training.images[:20], heads(77, 30, edge=EDGE)[0]])
    tables, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            tables.append(searched(Copies(part_of("training", training)), images, None))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_what_cannot_be_searched_is_refused(training: SliceSet) -> None:
    tiny = set_of(np.zeros((8, 1, 4, 4), np.uint8), np.zeros((8, 4, 4), np.uint8), list("aabbccdd"))
    with pytest.raises(UnfitSets, match="too small"):
        Copies(part_of("training", tiny))
    with pytest.raises(UnfitSets, match="one patient"):
        Copies(part_of("training", training[:6]))


def test_registration_undoes_a_turn_and_a_shift(training: SliceSet) -> None:
    fixed = torch.from_numpy(training.images[:8]).float()
    moving = torch.from_numpy(np.stack([turned(x, 6, (1, -1)) for x in training.images[:8]])).float()
    start = torch.eye(2, 3).repeat(8, 1, 1)
    fitted = affine(moving, fixed, start)
    angle = torch.rad2deg(torch.atan2(fitted[:, 1, 0] - fitted[:, 0, 1], fitted[:, 0, 0] + fitted[:, 1, 1]))
    assert angle.abs().numpy() == pytest.approx(6, abs=1)
    off = (warp(moving, fitted, FRAME) - fixed).abs().mean()
    assert off < 0.4 * (moving - fixed).abs().mean()


def test_frames_bring_a_head_to_the_middle_at_one_size() -> None:
    """A square of 8 pixels, 4 off the middle, seen at twice the size."""
    image = torch.zeros(1, 1, EDGE, EDGE)
    image[:, :, 16:24, 16:24] = 1
    seen = warp(image, pose(torch.tensor([[0.25, 0.25, 0.2]]), 0.4), EDGE)
    at = (seen[0, 0] > 0.5).nonzero()
    assert at.min(0).values.tolist() == [8, 8]
    assert at.max(0).values.tolist() == [23, 23]


def test_a_lesion_is_found_wherever_it_was_put() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 2, EDGE, EDGE)).astype(np.uint8)
    labels = np.zeros((6, EDGE, EDGE), np.uint8)
    labels[:, 8:14, 8:14] = 1
    columns, crops, _ = regions(torch.from_numpy(images).float(), torch.from_numpy(labels), [(0.0, 0.0)], (False,))
    known = Lesions(columns, crops[:, 0], covered(torch.from_numpy(labels)), torch.arange(6))
    moved = np.stack([shift(x, (5, 3), order=0) for x in images[2]])[None]
    marks = np.zeros((3, EDGE, EDGE), np.uint8)
    marks[:2, 13:19, 11:17] = 1
    other = rng.integers(0, 255, (2, 2, EDGE, EDGE)).astype(np.uint8)
    other[0, :, 13:19, 11:17] = moved[0, :, 13:19, 11:17]
    asked = torch.from_numpy(np.concatenate([other, moved])).float(), torch.from_numpy(marks)
    score, column, _ = known.search(*asked, None)
    assert score[0] > 2 > score[1] > 0
    assert column[0] == 2
    assert score[2] == 0  # no annotation
    everywhere = torch.ones(3, EDGE, EDGE)
    assert not known.search(asked[0], everywhere, None)[0].any()  # no training slice has so large an annotation
    barred = torch.arange(6)[None] == torch.tensor([[2], [2], [2]])
    assert known.search(*asked, barred)[0][0] < 2


def test_a_part_is_found_in_its_place() -> None:
    rng = np.random.default_rng(1)
    codes = torch.arange(8).repeat_interleave(2)
    known = torch.from_numpy(rng.integers(0, 255, (16, 2, EDGE, EDGE))).float()
    windows = Windows(known.half(), codes)
    asked = torch.from_numpy(rng.integers(0, 255, (3, 2, EDGE, EDGE))).float()
    asked[1, :, 9:17, 12:20] = known[5, :, 9:17, 12:20]
    asked[2] = 0
    score, column, place = windows.search(asked, None)
    assert score[1] > 3 > score[0] > 0
    assert column[1] == 5
    assert np.allclose(place[1] * EDGE, (12.5, 15.5))  # a disc whose middle lies in the part
    assert score[2] == 0
    assert windows.search(asked, codes[None] == torch.tensor([[2], [2], [2]]))[0][1] < 3
    few = Windows(known[:8].half(), codes[:8])
    assert not few.able
    assert not few.search(asked, None)[0].any()
