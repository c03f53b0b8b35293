"""A release from made-up patients: made, verified, tampered with, refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_release import ABOUT, CONFIG, decision, made, make_inputs, released
from typer.testing import CliRunner

import understudy.release.package as package_module
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.exchange.description import unpacked
from understudy.exchange.read import read_folder
from understudy.exchange.spec import FolderSpec
from understudy.memorization.perform import audit
from understudy.release import documents
from understudy.release.content import write_sums
from understudy.release.forms import About, Decision, read_form, write_templates
from understudy.release.gate import Audited
from understudy.release.package import Released, release_slices
from understudy.release.scan import scan
from understudy.release.verify import verify
from understudy.release.words import Words, secrets_of
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def package(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Released:
    return released(inputs, tmp_path_factory.mktemp("package") / "heads")


@pytest.fixture(scope="module")
def worked_out() -> dict[str, Any]:
    return {}


@pytest.fixture
def once(worked_out: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate says, and the evidence page: the same for every layout of the same slices, worked out once."""

    def share(module: Any, name: str) -> None:
        real = getattr(module, name)

        def shared(*args: Any) -> Any:
            if name not in worked_out:
                worked_out[name] = real(*args)
            return worked_out[name]

        monkeypatch.setattr(module, name, shared)

    share(package_module, "clear")
    share(documents, "evidence")


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("layout", ["sliceset", "png", "nifti", "nnunet", "webdataset"])
def test_every_layout_is_read_back_pixel_by_pixel(inputs: dict[str, Path], tmp_path: Path, layout: str) -> None:
    done = released(inputs, tmp_path / "out", layout)
    found = verify(tmp_path / "out", done.root, tmp_path / "sheet.png")
    assert found.problems == []
    assert (tmp_path / "sheet.png").stat().st_size > 0
    read = read_folder(*unpacked(tmp_path / "out", FolderSpec()), tmp_path / "read", progress=False)
    source = SliceSet.open(inputs["synthetic"])
    ids = pd.read_csv(tmp_path / "out.ids.csv").set_index("released")
    rows = ids["row"][read.index["id"]].tolist()
    assert source.index["id"][rows].tolist() == ids["id"][read.index["id"]].tolist()
    assert sorted(read.index["id"]) == [f"syn{i:06d}" for i in range(len(rows))]
    assert 7 not in rows
    assert len(rows) == done.certificate["audit"]["released"] < 60
    order = [read.channels.index(c) for c in source.channels]
    np.testing.assert_array_equal(read.read(slice(None))[0][:, order], source.read(rows)[0])
    np.testing.assert_array_equal(read.read(slice(None))[1], source.read(rows)[1])


@pytest.mark.usefixtures("once")
def test_tar_headers_tell_nothing_and_equal_slices_give_equal_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        released(inputs, tmp_path / name, "webdataset", shard_bytes=60_000, order=1)
    shards = sorted((tmp_path / "a" / "data").glob("*.tar"))
    assert len(shards) > 1
    for path in shards:
        assert path.stat().st_size <= 60_000
        assert path.read_bytes() == (tmp_path / "b" / "data" / path.name).read_bytes()
        with tarfile.open(path) as tar:
            assert {(m.uname, m.gname, m.uid, m.mtime) for m in tar} == {("", "", 0, 0)}


def test_manifest_and_documents(package: Released) -> None:
    manifest = pd.read_parquet(package.path / "manifest.parquet")
    assert set(manifest) == {"id", "generator", "seed", "sha256", "area.lesion"}
    croissant = json.loads((package.path / "croissant.json").read_text())
    assert croissant["rai:hasSyntheticData"] is True
    for heading in ("Motivation", "Composition", "Collection process", "Uses", "Distribution", "Maintenance"):
        assert f"## {heading}" in (package.path / "DATASHEET.md").read_text()
    assert "Patient_" not in (package.path / "evidence.html").read_text()
    for name in ("README.md", "DATASHEET.md"):  # the name `understudy` on PyPI is another project
        assert "pip install understudy-mri" in (package.path / name).read_text()


def _copy(package: Released, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package.path, tmp_path / "copy"))


def test_one_byte(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    path = next(p for p in sorted((folder / "data" / "images").rglob("*")) if p.is_file() and p.stat().st_size > 2000)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    assert any("was changed" in p for p in verify(folder).problems)


def test_extra_missing_and_linked_files(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    (folder / "more.txt").write_text("more")
    (folder / "aida.md").unlink()
    (folder / "link").symlink_to("/etc/hostname")
    said = " ".join(verify(folder).problems)
    assert "more.txt does not belong" in said
    assert "aida.md is missing" in said
    assert "link is a link" in said


@pytest.mark.parametrize("name", ["release.json", "SHA256SUMS", "croissant.json", "README.md", "data/zarr.json"])
def test_pipes_and_links_to_themselves_are_not_waited_for(package: Released, tmp_path: Path, name: str) -> None:
    folder = _copy(package, tmp_path)
    for make in (os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("..")):
        (folder / name).unlink()
        make(folder / name)
        signal.alarm(20)  # ends the test's process, if it hangs
        try:
            assert any(name in problem for problem in verify(folder).problems)
        except UnderstudyError:
            assert name in ("release.json", "SHA256SUMS")
        real: list[SliceSet] = []
        assert any(name in finding for finding in scan(folder, package.certificate, real, Words({})).findings)
        signal.alarm(0)


@pytest.mark.parametrize("line", ["../outside", "/etc/passwd", "a//b"])
def test_hash_lists_cannot_point_outside(package: Released, tmp_path: Path, line: str) -> None:
    folder = _copy(package, tmp_path)
    with open(folder / "SHA256SUMS", "a") as handle:
        handle.write(f"{hashlib.sha256(b'').hexdigest()}  {line}\n")
    with pytest.raises(UnderstudyError, match="cannot be read"):
        verify(folder)


def _smuggled(inputs: dict[str, Path], folder: Path) -> None:
    """The first slice of a PNG package becomes a training slice."""
    from PIL import Image

    real = SliceSet.open(inputs["real"]).read([5])[0][0]
    for name, pixels in zip(("T1", "FLAIR"), real, strict=True):
        Image.fromarray(pixels).save(min((folder / "data" / name).glob("*.png")))


@pytest.mark.usefixtures("once")
def test_a_smuggled_training_slice(inputs: dict[str, Path], tmp_path: Path) -> None:
    done = released(inputs, tmp_path / "out", "png")
    _smuggled(inputs, tmp_path / "out")
    assert any("was changed" in p for p in verify(tmp_path / "out").problems)
    write_sums(tmp_path / "out")  # hashes made anew: the manifest still tells
    problems = verify(tmp_path / "out").problems
    assert any(p.startswith("slice syn") and "was changed" in p for p in problems)
    assert any("published" in p for p in verify(tmp_path / "out", done.root).problems)
    real = [SliceSet.open(inputs["real"])]
    found = scan(tmp_path / "out", done.certificate, real, Words(secrets_of(real)))
    assert any("is a real slice" in f for f in found.findings)


def test_a_wholly_forged_package_differs_in_its_root(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    (folder / "LICENSE").write_text("do as you like")
    write_sums(folder)
    assert verify(folder).problems == []
    assert verify(folder, package.root).problems


@pytest.mark.parametrize("place", ["DATASHEET.md", "data/zarr.json", "manifest.parquet"])
def test_scan_finds_a_patient_id(inputs: dict[str, Path], package: Released, tmp_path: Path, place: str) -> None:
    folder, real = _copy(package, tmp_path), [SliceSet.open(inputs["real"])]
    if place.endswith("parquet"):
        frame = pd.read_parquet(folder / place)
        frame.assign(neighbour="Patient_T1").to_parquet(folder / place, index=False)
    elif place.endswith("json"):
        said = json.loads((folder / place).read_text())
        said["attributes"]["attrs"]["from"] = "Patient_T1"
        (folder / place).write_text(json.dumps(said))
    else:
        with open(folder / place, "a") as handle:
            handle.write("Patient_T1")
    findings = scan(folder, package.certificate, real, Words(secrets_of(real))).findings
    assert any("a patient's id" in f or "columns" in f for f in findings)
    assert not any("Patient_T1" in f for f in findings)


def test_ids_are_a_counter_in_an_order_that_only_the_map_beside_the_package_tells(
    inputs: dict[str, Path], package: Released, tmp_path: Path
) -> None:
    assert package.ids == package.path.with_name("heads.ids.csv")
    assert package.ids.stat().st_mode & 0o077 == 0
    ids = pd.read_csv(package.ids)
    assert list(ids) == ["released", "id", "row"]
    assert ids["row"].tolist() != sorted(ids["row"])
    again = released(inputs, tmp_path / "again")
    assert pd.read_csv(again.ids)["row"].tolist() != ids["row"].tolist()  # type: ignore[arg-type]
    said = CliRunner().invoke(app, ["release", "scan", str(again.path), "--training", str(inputs["real"])])
    assert said.exit_code == 0, said.output
    assert "56 slices searched, nothing found\n2 of" in said.output  # the site "A", and the slices' folder
    shutil.rmtree(again.path)
    with pytest.raises(UnderstudyError, match="map of the ids"):  # which would be lost
        released(inputs, again.path)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("column", ["id", "generator", "seed", "subject"])
@pytest.mark.parametrize("patient", ["MR.1234.567", "P 77 Smith", "Müller_01"])
def test_a_patient_in_the_index_of_synthetic_slices(
    inputs: dict[str, Path], tmp_path: Path, column: str, patient: str
) -> None:
    """An id is made anew, a column that no release has stays behind, and in the others nothing is rewritten."""
    real, made_of = SliceSet.open(inputs["real"]), SliceSet.open(inputs["synthetic"])
    named = real.index.replace({"subject": {"Patient_T1": patient}})
    real.index, made_of.index = named, made_of.index.copy()
    made_of.index[column] = [f"gen_{patient}_{i}" for i in range(60)]
    audited = Audited(made_of, real, real, inputs["audit"])
    if column in ("generator", "seed"):
        with pytest.raises(UnderstudyError, match="another type" if column == "seed" else "a patient's id"):
            release_slices(audited, ABOUT, decision(), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
        return
    done = release_slices(audited, ABOUT, decision(), tmp_path / "out")
    everything = b"".join(p.read_bytes() for p in done.path.rglob("*") if p.is_file())
    assert not any(word.encode() in everything for word in (patient, "MR_1234", "P_77", "M_ller", "gen_"))


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("column", ["generator", "seed"])
@pytest.mark.parametrize("at", [1, 59])
def test_a_patient_behind_an_empty_first_entry(inputs: dict[str, Path], tmp_path: Path, column: str, at: int) -> None:
    """The columns of a released index have types, whatever their first entry is, and texts are read to the end."""
    real, made_of = SliceSet.open(inputs["real"]), SliceSet.open(inputs["synthetic"])
    package_module.clear(Audited(made_of, real, real, inputs["audit"]), decision())  # as it was before: see `once`
    made_of.index = made_of.index.assign(**{column: [None, *["Patient_T1" if i == at else None for i in range(1, 60)]]})
    with pytest.raises(UnderstudyError, match="another type" if column == "seed" else "a patient's id"):
        release_slices(Audited(made_of, real, real, inputs["audit"]), ABOUT, decision(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["title", "sources", "keywords", "remarks", "override", "out"])
def test_forms_are_searched_before_anything_is_written(inputs: dict[str, Path], tmp_path: Path, place: str) -> None:
    real = SliceSet.open(inputs["real"])
    audited, words = Audited(SliceSet.open(inputs["synthetic"]), real, real, inputs["audit"]), "as PATIENT-T1 moved"
    about, signed, out = ABOUT, decision(), tmp_path / "out"
    if place == "remarks":
        signed = decision(remarks=words)
    elif place == "out":
        out = tmp_path / "heads of patient t1"
    elif place != "override":
        about = ABOUT.model_copy(update={place: [words] if place in ("sources", "keywords") else words})
    with pytest.raises(UnderstudyError, match="a patient's id"):
        release_slices(audited, about, signed, out, override=words if place == "override" else None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("once")
def test_a_path_and_a_site_in_a_form(inputs: dict[str, Path], tmp_path: Path) -> None:
    real = SliceSet.open(inputs["real"])
    real.index = real.index.assign(site="Södersjukhuset")
    audited = Audited(SliceSet.open(inputs["synthetic"]), real, real, inputs["audit"])
    named = ABOUT.model_copy(update={"publisher": "Sodersjukhuset"})
    with pytest.raises(UnderstudyError, match=r"a site's name(?s:.*)sites_named"):
        release_slices(audited, named, decision(), tmp_path / "out")
    allowed = named.model_copy(update={"sites_named": ["Södersjukhuset"]})
    with pytest.raises(UnderstudyError, match=r"about.yaml holds a path \(/da…, 20 characters"):
        changed = allowed.model_copy(update={"description": "From /data/hospital/scan."})
        release_slices(audited, changed, decision(), tmp_path / "out")
    done = release_slices(audited, allowed, decision(), tmp_path / "out")
    assert done.certificate["sites_named"] == ["Södersjukhuset"]


def test_scores_of_held_out_patients_are_left_out_and_refused(
    inputs: dict[str, Path], package: Released, tmp_path: Path
) -> None:
    table = inputs["audit"] / "private" / "heldout.parquet"
    assert not list(package.path.rglob(table.name))
    folder, real = _copy(package, tmp_path), [SliceSet.open(inputs["real"])]
    shutil.copy(table, folder / table.name)
    findings = scan(folder, package.certificate, real, Words(secrets_of(real))).findings
    assert findings == [f"{table.name}: no file of a release"]


def test_gate(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="refuse"):
        released(inputs, tmp_path / "a", decision=decision(decision="refuse"), override="we need it now")
    with pytest.raises(UnderstudyError, match="approve_with_removal"):
        released(inputs, tmp_path / "a", decision=decision(decision="approve"))
    with pytest.raises(UnderstudyError, match="reason"):
        released(inputs, tmp_path / "a", override="yes")
    done = released(inputs, tmp_path / "b", decision=decision(decision="approve"), override="the board said so")
    for name in ("DATASHEET.md", "croissant.json", "evidence.html", "aida.md", "ro-crate-metadata.json"):
        assert "the board said so" in (done.path / name).read_text(), name
    assert "the board said so" in verify(done.path).override
    assert not (tmp_path / "a").exists()


EVALUATED = {
    "patients": 8, "repeats": 1, "baseline_dice": 0.7, "evidence": "weak",
    "comparisons": [{"label": "Synthetic", "training": "synthetic", "relative_dice": 0.83, "low": 0.7, "high": 0.91}],
}  # fmt: skip


def test_the_first_line_says_what_is_known_of_usefulness(inputs: dict[str, Path], tmp_path: Path) -> None:
    unknown = released(inputs, tmp_path / "unknown")
    assert "was not measured" in (unknown.path / "README.md").read_text().splitlines()[2]
    assert "slices that show nothing pass it as well" in (unknown.path / "evidence.html").read_text()
    known = released(inputs, tmp_path / "known", evaluation=EVALUATED)
    assert "83 % (95 % interval 70 % to 91 %) of the Dice" in (known.path / "README.md").read_text().splitlines()[2]
    assert "before some were taken out" in documents.usefulness(known.certificate)
    low = [{**EVALUATED["comparisons"][0], "relative_dice": 0.15}]
    useless = {**known.certificate, "evaluation": {**EVALUATED, "comparisons": low}}
    assert "That is little" in documents.usefulness(useless)
    for done in (unknown, known):
        assert verify(done.path).problems == []


def made_inputs(root: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    real = made.real_set(root / "real", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    synthetic = made.synthetic_set(root / "synthetic", images, labels)
    audit(real, real, synthetic, CONFIG).save(root / "audit")
    return {"real": real.path, "synthetic": synthetic.path, "audit": root / "audit"}


def test_what_could_not_be_judged_is_not_released_and_no_page_promises_more(tmp_path: Path) -> None:
    images, labels = made.new_slices(60)
    images[5], images[6] = images[5] // 8, 0  # faint, empty
    done = released(made_inputs(tmp_path, images, labels), tmp_path / "out")
    of = done.certificate["audit"]
    assert of["unjudged"] == 2
    left = 60 - 2 - of["flagged"] - of["alike"]
    assert of["released"] == left == len(pd.read_parquet(done.path / "manifest.parquet"))
    assert "2 too faint to be judged" in (done.path / "DATASHEET.md").read_text()
    assert "No picture on this page shows" not in (done.path / "evidence.html").read_text()
    assert verify(done.path).problems == []


def test_copies_of_test_patients_are_not_released(tmp_path: Path) -> None:
    images, labels = made.new_slices(60)
    real = made.real_set(tmp_path / "same", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    for i, row in enumerate([*real.rows(split="test")[:3], *real.rows(split="val")[:2]]):
        images[i] = real.read([row])[0][0]
    inputs = made_inputs(tmp_path, images, labels)
    with pytest.raises(UnderstudyError, match="approve_with_removal"):
        released(inputs, tmp_path / "out", decision=decision(decision="approve"))
    done = released(inputs, tmp_path / "out")
    assert done.certificate["audit"]["leaked"] + done.certificate["audit"]["flagged"] >= 5
    assert done.certificate["audit"]["released"] <= 55
    assert "copies of held-out patients" in (done.path / "DATASHEET.md").read_text()
    ids = pd.read_csv(done.ids)
    assert not set(ids.iloc[:, -1]) & set(range(5))


def test_what_was_screened_out_before_counts_as_flagged(inputs: dict[str, Path], tmp_path: Path) -> None:
    record, real = {"before": 100, "flagged": 15, "leaked": 25}, SliceSet.open(inputs["real"])
    left = SliceSet.open(inputs["synthetic"]).save(tmp_path / "set", screened=record)
    done = audit(real, real, left, CONFIG)
    done.save(tmp_path / "audit")
    share = (40 + done.numbers["flags"]["count"]) / 100
    with pytest.raises(UnderstudyError, match=f"{share:.2%} of the slices were flagged, more than the 20.00%"):
        released(inputs | {"synthetic": left.path, "audit": tmp_path / "audit"}, tmp_path / "no")


def test_nothing_but_copies_is_refused_in_these_words(tmp_path: Path) -> None:
    real = made.real_set(tmp_path / "same", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    images, labels = real.read(real.rows(split="train")[:60])
    images[58:] = 0
    with pytest.raises(UnderstudyError, match="refused: 58 of 60 slices are copies, and the other 2 have too little"):
        released(made_inputs(tmp_path, images, labels), tmp_path / "out")


def test_thresholds_that_came_late_are_marked_everywhere(inputs: dict[str, Path], tmp_path: Path) -> None:
    limits = {"quantile": 0.95, "most_flagged": 0.2, "set_on": "2020-01-01", "before_looking": False}
    done = released(inputs, tmp_path / "out", decision=decision(thresholds=limits))
    for name in ("README.md", "DATASHEET.md", "croissant.json", "evidence.html", "aida.md", "ro-crate-metadata.json"):
        assert "The thresholds were set AFTER the audit" in (done.path / name).read_text(), name
    assert verify(done.path).problems == []
    assert CliRunner().invoke(app, ["verify", str(done.path)]).exit_code == 3
    (done.path / "README.md").write_text("changed")
    shown = CliRunner().invoke(app, ["verify", str(done.path)])
    assert shown.exit_code == 1
    first, *rest = shown.output.splitlines()
    assert first.startswith("problem: README.md")
    assert "NOT INTACT, do not use it: Heads, version 1.0" in rest


def test_flags_beside_one_patient_need_a_look_at_the_gallery_which_is_recorded(tmp_path: Path) -> None:
    real = made.real_set(tmp_path / "real", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    images, labels = made.new_slices(150)
    copies, marks = real.read(np.repeat(real.rows(subject="Patient_T2"), 3))
    noisy = copies + np.random.default_rng(0).normal(0, 4, copies.shape)
    images[:36], labels[:36] = np.clip(noisy, 0, 255).astype(np.uint8), marks
    synthetic = made.synthetic_set(tmp_path / "synthetic", images, labels)
    audit(real, real, synthetic, CONFIG).save(tmp_path / "audit")
    inputs = {"real": real.path, "synthetic": synthetic.path, "audit": tmp_path / "audit"}
    limits = {"quantile": 0.95, "most_flagged": 0.5, "set_on": "2020-01-01", "before_looking": True}
    with pytest.raises(UnderstudyError, match=r"concentrated.*`gallery`"):
        released(inputs, tmp_path / "out", decision=decision(gallery="seen", thresholds=limits))
    looked = "Thirty pairs are the same brain under noise"
    done = released(inputs, tmp_path / "out", decision=decision(gallery=looked, thresholds=limits))
    record = done.certificate["audit"]["concentration"]
    assert (record["found"], record["patients"], record["hit"] >= 36) == (True, 1, True)
    assert "Patient_" not in str(record)
    assert done.certificate["override"] is None
    sheet = (done.path / "DATASHEET.md").read_text()
    assert "Concentrated on one training patient" in sheet
    assert f"What the closest pairs show: {looked}." in sheet
    assert json.loads((done.path / "decision.json").read_text())["gallery"] == looked
    assert verify(done.path).problems == []


def test_p_values_are_found_again_not_trusted(inputs: dict[str, Path], tmp_path: Path) -> None:
    changed = {**inputs, "audit": Path(shutil.copytree(inputs["audit"], tmp_path / "audit"))}
    path = changed["audit"] / "p_values.parquet"
    pd.read_parquet(path).assign(flagged=False, p=0.5).to_parquet(path)
    with pytest.raises(UnderstudyError, match="p-values"):
        released(changed, tmp_path / "out")


def test_an_audit_of_another_set(inputs: dict[str, Path], tmp_path: Path) -> None:
    images, labels = made.new_slices(60, seed=5)
    other = made.synthetic_set(tmp_path / "other", images, labels)
    with pytest.raises(UnderstudyError, match="other synthetic slices"):
        released({**inputs, "synthetic": other.path}, tmp_path / "out")


def test_forms_name_all_that_is_left(tmp_path: Path) -> None:
    write_templates(tmp_path)
    with pytest.raises(UnderstudyError, match=r"(?s)title.*approval"):
        read_form(tmp_path / "about.yaml", About)
    texts = [(tmp_path / name).read_text() for name in ("about.yaml", "decision.yaml")]
    filled = [re.sub(r"(?m)(: |- )TODO", r"\1a text: with a colon", text) for text in texts]
    (tmp_path / "about.yaml").write_text(filled[0])
    with pytest.raises(UnderstudyError, match=r"about.yaml, line 2(?s:.*)quotes"):
        read_form(tmp_path / "about.yaml", About)
    wrong = texts[1].replace("decision: TODO", "decision: maybe").replace("most_flagged: TODO", "most_flagged: 3")
    (tmp_path / "decision.yaml").write_text(wrong.replace("set_on: TODO", "set_on: soon"))
    with pytest.raises(UnderstudyError) as caught:
        read_form(tmp_path / "decision.yaml", Decision)
    said_of = dict(line.strip().split(": ", 1) for line in caught.value.what.splitlines()[1:])
    assert said_of["decision"] == "should be 'approve', 'approve_with_removal' or 'refuse' (given: maybe)"
    assert said_of["thresholds.most_flagged"] == "should be 1 or less (given: 3)"
    assert said_of["thresholds.set_on"] == "should be a date such as 2026-01-31 (given: soon)"
    assert said_of["thresholds.before_looking"] == "still to be filled in"
    answers = {"short_name": "A", "source_terms_allow_release": "true"}
    text = re.sub(r"(?m)^(\w+): TODO", lambda m: f"{m[1]}: {answers.get(m[1], 'words')}", texts[0])
    (tmp_path / "about.yaml").write_text(text.replace("- TODO", "- words"))
    assert read_form(tmp_path / "about.yaml", About).doi == ""
    said = {"decision": "approve", "date": "2026-01-02", "set_on": "2026-01-01", "before_looking": "true"}
    text = re.sub(r"(?m)^( *)(\w+): TODO", lambda m: f"{m[1]}{m[2]}: {said.get(m[2], '0.1')}", texts[1])
    (tmp_path / "decision.yaml").write_text(text.replace("name: 0.1", "name: N").replace("role: 0.1", "role: R"))
    assert read_form(tmp_path / "decision.yaml", Decision).thresholds.most_flagged == 0.1
