"""The phantom cohort: repeatable, whole or absent, and with the contrasts that an MR reader expects."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from understudy.cohort.phantom import write as module
from understudy.cohort.phantom.head import Streams
from understudy.cohort.phantom.tumour import Lesion, draw_lesions, mass_effect
from understudy.cohort.phantom.write import PhantomConfig, draw_patient, patient_id, write_phantoms
from understudy.errors import UnderstudyError

SMALL = PhantomConfig(patients=3, shape=(40, 40, 26), seed=5)
MEDIUM = PhantomConfig(patients=8, shape=(96, 96, 62), seed=5)
CHANNELS = ("t1", "t1gd", "t2", "flair")


@pytest.fixture(scope="module")
def medium():
    """Patients whose voxels are small enough to be pure tissue somewhere."""
    return [draw_patient(MEDIUM, number) for number in range(4)]


def intensities(phantom, channel):
    """Every tissue's intensity by least squares: at this size most voxels are mixtures."""
    names = [name for name, part in phantom.tissues.items() if part.sum() > 50]
    inside = phantom.images[channel] > 0
    parts = np.stack([phantom.tissues[name][inside] for name in names], 1)
    solved, *_ = np.linalg.lstsq(parts, phantom.images[channel][inside], rcond=None)
    return dict(zip(names, solved.tolist(), strict=True))


def content(folder):
    """Every file's bytes; the volumes unpacked, since gzip notes the time."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        packed = path.name.endswith(".nii.gz")
        found[name] = np.asanyarray(nib.load(path).dataobj).tobytes() if packed else path.read_bytes()
    return found


def test_layout_types_and_tables(tmp_path):
    write_phantoms(SMALL, tmp_path / "out", progress=False)
    table = pd.read_csv(tmp_path / "out" / "participants.tsv", sep="\t")
    assert table.participant_id.tolist() == ["Phantom_001", "Phantom_002", "Phantom_003"]
    assert table.site.tolist() == ["site1", "site2", "site3"]
    for row in table.itertuples():
        folder = tmp_path / "out" / row.participant_id
        names = sorted(p.name for p in folder.glob("*.nii.gz"))
        assert names == sorted(f"{row.participant_id}_{s}.nii.gz" for s in ("t1", "t1ce", "t2", "flair", "seg"))
        volumes = {name.split("_")[-1][:-7]: nib.load(folder / name) for name in names}
        assert all(v.shape == SMALL.shape for v in volumes.values())
        assert all(nib.aff2axcodes(v.affine) == ("L", "P", "S") for v in volumes.values())
        assert volumes["t1"].get_data_dtype() == np.float32
        assert volumes["seg"].get_data_dtype() == np.uint8
        seg = np.asanyarray(volumes["seg"].dataobj)
        assert row.tumour_ml == pytest.approx(
            np.count_nonzero(seg) * np.prod(volumes["seg"].header.get_zooms()) / 1000, rel=1e-3
        )
        assert row.enhances == (row.enhancing_ml > 0)
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["phantom"]["seed"] == 5
    assert "nobody's brain" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob(".*"))


def test_default_size_is_that_of_brats():
    assert PhantomConfig().shape == (240, 240, 155)
    affine = draw_patient(PhantomConfig(shape=(24, 48, 31)), 0).affine
    np.testing.assert_allclose(np.diag(affine), [-10, -5, 5, 1])


def test_same_patient_whatever_the_number_of_patients(tmp_path):
    write_phantoms(SMALL, tmp_path / "three", progress=False)
    write_phantoms(SMALL.model_copy(update={"patients": 1}), tmp_path / "one", progress=False)
    three, one = content(tmp_path / "three"), content(tmp_path / "one")
    for name, data in one.items():
        if name.startswith("Phantom_"):
            assert three[name] == data
    write_phantoms(SMALL, tmp_path / "one", progress=False)  # grows
    assert content(tmp_path / "one") == three


def test_seeds_and_patients_differ():
    images = [draw_patient(SMALL.model_copy(update={"seed": s}), k).images["t1"] for s, k in ((5, 0), (5, 1), (6, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(images[a] != images[b]) > 0.1


def test_a_broken_run_continues_to_the_same_files(tmp_path, monkeypatch):
    write_phantoms(SMALL, tmp_path / "whole", progress=False)
    save, calls = nib.save, []

    def failing(image, path):
        calls.append(path)
        if len(calls) == 8:  # in the middle of the second patient
            raise KeyboardInterrupt
        save(image, path)

    monkeypatch.setattr(module.nib, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(SMALL, tmp_path / "broken", progress=False)
    assert [p.name for p in (tmp_path / "broken").glob("*Phantom*")] == ["Phantom_001"]
    (tmp_path / "broken" / ".Phantom_002.99.tmp").mkdir()  # what SIGKILL leaves
    calls.clear()
    monkeypatch.setattr(module.nib, "save", lambda image, path: (calls.append(path), save(image, path)))
    write_phantoms(SMALL, tmp_path / "broken", progress=False)
    assert len(calls) == 10  # the first patient was not drawn again
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_names_of_2023(tmp_path):
    config = PhantomConfig(patients=1, shape=(40, 40, 26), seed=5, naming="brats2023", without_enhancement=0)
    write_phantoms(config, tmp_path, progress=False)
    folder = tmp_path / "Phantom-001"
    assert {p.name for p in folder.glob("*.gz")} == {
        f"Phantom-001-{s}.nii.gz" for s in ("t1n", "t1c", "t2w", "t2f", "seg")
    }
    seg = np.asanyarray(nib.load(folder / "Phantom-001-seg.nii.gz").dataobj)
    assert set(np.unique(seg)) == {0, 1, 2, 3}


def test_easy_tumours_are_of_one_class_and_large(tmp_path):
    easy = PhantomConfig(patients=2, shape=(40, 40, 26), seed=5, tumours="easy")
    patient = draw_patient(easy, 0)
    assert set(np.unique(patient.labels)) == {0, 1}
    row = patient.facts["row"]
    assert row["tumour_ml"] == pytest.approx(row["necrosis_ml"] + row["oedema_ml"] + row["enhancing_ml"], abs=0.01)
    assert row["tumour_ml"] == pytest.approx((patient.labels > 0).sum() * 6 * 6 * 155 / 26 / 1000, rel=1e-3)
    cores = [[draw_lesions(Streams(5, n), True, False, large)[0].radius for n in range(60)] for large in (False, True)]
    assert min(cores[0]) < 12 < 16 <= min(cores[1])
    assert np.mean(cores[1]) > 1.2 * np.mean(cores[0])
    write_phantoms(easy, tmp_path / "easy", progress=False)
    assert json.loads((tmp_path / "easy" / "dataset.json").read_text())["labels"] == {"tumour": 1}


def test_phantoms_of_before_keep_their_description():
    assert "tumours" not in SMALL.model_dump()
    assert PhantomConfig(tumours="easy").model_dump()["tumours"] == "easy"


def test_refuses_a_folder_of_others(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("mine")
    with pytest.raises(UnderstudyError, match="not empty"):
        write_phantoms(SMALL, tmp_path / "full", progress=False)
    one = SMALL.model_copy(update={"patients": 1})
    write_phantoms(SMALL.model_copy(update={"patients": 2}), tmp_path / "out", progress=False)
    with pytest.raises(UnderstudyError, match="another configuration"):
        write_phantoms(one.model_copy(update={"seed": 9}), tmp_path / "out", progress=False)
    with pytest.raises(UnderstudyError, match="already holds 2"):
        write_phantoms(one, tmp_path / "out", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UnderstudyError):
        write_phantoms(one, tmp_path / "file", progress=False)


@pytest.mark.parametrize(
    "wrong", [{"patients": 0}, {"shape": (4, 40, 26)}, {"sites": 0}, {"sites": []}, {"colour": "red"}]
)
def test_refuses_impossible_configurations(wrong):
    with pytest.raises(ValidationError):
        PhantomConfig(**wrong)


def test_background_is_zero_and_the_brain_is_not(medium):
    for phantom in medium:
        inside = sum(phantom.tissues.values()) > 0.5
        assert 0.15 < inside.mean() < 0.3  # a head of 1.3 to 2.6 litres in 8.9 litres
        for image in phantom.images.values():
            assert image.dtype == np.float32
            assert (image[~inside] == 0).all()
            assert (image[inside] > 0).all()
        assert (phantom.labels[~inside] == 0).all()


def test_parts_of_a_voxel_add_up_to_one(medium):
    for phantom in medium:
        total = sum(phantom.tissues.values())
        np.testing.assert_allclose(total[total > 0], 1, atol=1e-3)
        assert min(part.min() for part in phantom.tissues.values()) >= 0


def test_tissues_have_the_order_of_their_sequence(medium):
    orders = {
        "t1": ("wm", "gm", "csf"),
        "t1gd": ("wm", "gm", "csf"),
        "t2": ("csf", "gm", "wm"),
        "flair": ("oedema", "gm", "wm", "csf"),
    }
    for phantom in medium:
        for channel, order in orders.items():
            found = intensities(phantom, channel)
            means = [found[tissue] for tissue in order]
            assert means == sorted(means, reverse=True), (channel, order, means)
            darker, brighter = ("oedema", "wm") if channel.startswith("t1") else ("wm", "oedema")
            assert found[darker] < found[brighter], channel


def test_the_rim_is_bright_only_after_gadolinium(medium):
    rims = [p for p in medium if p.facts["row"]["enhances"]]
    assert rims
    for phantom in rims:
        rim = {c: phantom.images[c][phantom.labels == 4].mean() for c in CHANNELS}
        white = {c: intensities(phantom, c)["wm"] for c in CHANNELS}
        core = {c: phantom.images[c][phantom.labels == 1].mean() for c in CHANNELS}
        assert rim["t1gd"] > 1.1 * white["t1gd"]
        assert rim["t1"] < white["t1"]
        assert core["t1"] < rim["t1"]
        assert core["t1gd"] < 0.8 * rim["t1gd"]
        assert core["t2"] > rim["t2"]


def test_labels_follow_the_tissues(medium):
    for phantom in medium:
        assert set(np.unique(phantom.labels)) == ({0, 1, 2, 4} if phantom.facts["row"]["enhances"] else {0, 1, 2})
        for label, tissue in ((1, "necrosis"), (2, "oedema"), (4, "enhancing")):
            if (phantom.labels == label).any():
                assert phantom.tissues[tissue][phantom.labels == label].mean() > 0.6
        # oedema keeps to the white matter: the cortex beside it is spared
        assert (phantom.labels[phantom.tissues["csf"] > 0.9] == 0).mean() > 0.99


def test_shares_of_patients_hold_in_any_cohort():
    for seed in range(3):
        lesions = [module._turns(MEDIUM.model_copy(update={"seed": seed}), k) for k in range(40)]
        assert 5 <= sum(a < 0.18 for a, _ in lesions) <= 9
        assert 4 <= sum(b < 0.15 for _, b in lesions) <= 8
        without = {k % 4 for k, (a, _) in enumerate(lesions) if a < 0.18}
        assert len(without) >= 3  # no site has them all
    none = PhantomConfig(patients=2, shape=(40, 40, 26), without_enhancement=1, multifocal=1)
    facts = [draw_patient(none, k).facts["row"] for k in range(2)]
    assert not any(f["enhances"] for f in facts)
    assert all(f["foci"] >= 2 for f in facts)


def test_sites_differ_and_a_site_is_the_same_in_every_cohort():
    one = PhantomConfig(shape=(40, 40, 26), seed=1)
    scanners = [draw_patient(one, k).facts["scanner"] for k in range(5)]
    assert scanners[0] == scanners[4]
    for key in ("contrast", "noise", "blur", "bias"):
        assert len({str(s[key]) for s in scanners[:4]}) == 4
    assert draw_patient(one.model_copy(update={"seed": 2}), 0).facts["scanner"] == scanners[0]
    named = PhantomConfig(shape=(40, 40, 26), sites=["Mainz", "Porto"])
    assert [draw_patient(named, k).facts["row"]["site"] for k in range(3)] == ["Mainz", "Porto", "Mainz"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(*[st.integers(8, 37)] * 3), st.integers(0, 2**40), st.integers(0, 2000))
def test_any_shape_gives_a_whole_patient(shape, seed, number):
    phantom = draw_patient(PhantomConfig(shape=shape, seed=seed), number)
    assert phantom.labels.shape == shape
    assert phantom.labels.dtype == np.uint8
    assert set(np.unique(phantom.labels)) <= {0, 1, 2, 4}
    for image in phantom.images.values():
        assert image.shape == shape
        assert np.isfinite(image).all()
        assert image.min() == 0 < image.max()


def test_the_same_head_at_any_resolution():
    coarse = draw_patient(PhantomConfig(shape=(40, 40, 26), seed=5), 1)
    fine = draw_patient(PhantomConfig(shape=(120, 120, 78), seed=5), 1)
    small = fine.tissues["wm"].reshape(40, 3, 40, 3, 26, 3).mean((1, 3, 5))
    assert np.corrcoef(small.ravel(), coarse.tissues["wm"].ravel())[0, 1] > 0.85
    tumour = (fine.labels > 0).reshape(40, 3, 40, 3, 26, 3).mean((1, 3, 5)) > 0.5
    both = np.logical_and(tumour, coarse.labels > 0).sum()
    assert 2 * both / (tumour.sum() + (coarse.labels > 0).sum()) > 0.75


def test_left_is_left_and_the_nose_is_in_front():
    phantom = next(p for p in (draw_patient(SMALL, k) for k in range(9)) if p.facts["row"]["foci"] == 1)
    where = np.argwhere(np.isin(phantom.labels, (1, 4))).mean(0)
    right, _, up = (phantom.affine[:3, :3] @ where + phantom.affine[:3, 3]) - phantom.affine[:3, :3] @ (
        np.array([19.5, 19.5, 0])
    ) * [1, 1, 0]
    assert (right < 0) == (phantom.facts["row"]["side"] == "left")
    assert up > 0
    cerebellum = np.argwhere(phantom.tissues["cerebellum"] > 0.5).mean(0)
    assert cerebellum[1] > 20  # behind: y grows to the back
    assert cerebellum[2] < 10  # below


def test_tumours_lie_in_the_cerebrum_and_vary():
    drawn = [draw_lesions(Streams(3, k), True, k % 5 == 0) for k in range(60)]
    first = [lesions[0] for lesions in drawn]
    radii = np.array([lesion.radius for lesion in first])
    assert radii.min() < 10
    assert radii.max() > 25
    sides = np.sign([lesion.centre[0] for lesion in first])
    assert 15 < (sides > 0).sum() < 45
    assert np.std([lesion.centre[1] for lesion in first]) > 20
    assert all(s.radius < lesions[0].radius or s.radius == 5 for lesions in drawn for s in lesions[1:])


def test_mass_effect_keeps_volume_near_the_core_and_stops_at_the_skull():
    lesion = Lesion((0.0, 0.0, 0.0), 10.0, (1.0, 1.0, 1.0), 0.0, 3.0, 10.0, 0.5)
    push = mass_effect([lesion])
    r = np.array([10.0, 11.0, 80.0], np.float32)
    zero = np.zeros(3, np.float32)
    x, y, z = push(r, zero, zero, np.full(3, 50, np.float32))
    fade = np.exp(-(r**2) / (2 * 32**2))
    np.testing.assert_allclose(x, r - (r - np.cbrt(r**3 - 500)) * fade, rtol=1e-4)
    assert (y == 0).all()
    assert (z == 0).all()
    assert abs(x[2] - 80) < 0.01
    x, *_ = push(r, zero, zero, zero)
    np.testing.assert_array_equal(x, r)


def test_disk_errors_name_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "x.nii.gz")

    monkeypatch.setattr(module.nib, "save", full)
    with pytest.raises(UnderstudyError, match="disk is full"):
        write_phantoms(SMALL, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").glob("*Phantom*"))
    shutil.rmtree(tmp_path / "out")


def test_patient_names():
    assert patient_id(SMALL, 0) == "Phantom_001"
    assert patient_id(SMALL, 1499) == "Phantom_1500"
