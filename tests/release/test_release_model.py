"""A release of weights of a small untrained network: gate with white-box check, made, sampled, refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from made_release import ABOUT, CONFIG, SECRET, Sources, agreed, decision, make_sources, trained
from safetensors import safe_open
from typer.testing import CliRunner

import understudy.release.gate as gate_module
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.exchange.description import generator_in
from understudy.generators.folder import CONFIG as CONFIG_FILE
from understudy.generators.folder import DISCRIMINATOR, WEIGHTS
from understudy.generators.membership import MembershipScores
from understudy.generators.registry import load_generator
from understudy.io.files import read_json, sha256_file, write_json
from understudy.memorization.perform import audit
from understudy.release.content import write_sums
from understudy.release.forms import Decision
from understudy.release.gate import Audited
from understudy.release.package import Released, release_model
from understudy.release.scan import scan
from understudy.release.verify import verify
from understudy.release.words import Words, secrets_of
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return make_sources(tmp_path_factory.mktemp("weights"))


def release(sources: Sources, signed: Decision, out: Path, override: str | None = None, **told: Any) -> Released:
    return release_model(sources.model, sources.audited, ABOUT, signed, out, override, **told)


@pytest.fixture(scope="module")
def package(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Released:
    return release(sources, agreed(), tmp_path_factory.mktemp("package") / "net")


def test_whoever_gets_it_samples_in_one_command(sources: Sources, package: Released, tmp_path: Path) -> None:
    found = verify(package.path, package.root, tmp_path / "sheet.png")
    assert found.problems == []
    assert (tmp_path / "sheet.png").stat().st_size > 0
    done = CliRunner().invoke(
        app, ["sample", str(package.path), str(tmp_path / "out"), "--count", "60", "--seed", "3", "-q"]
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(
        SliceSet.open(tmp_path / "out").read(slice(None))[0], sources.audited.synthetic.read(slice(None))[0]
    )


def test_only_the_averaged_generator_goes_along(sources: Sources, package: Released) -> None:
    with safe_open(package.path / "model" / WEIGHTS, "pt") as tensors:
        assert tensors.metadata() is None
        assert set(tensors.keys()) == set(load_generator(sources.model)[0].state_dict())
    assert not list(package.path.rglob("*discriminator*"))
    config = read_json(package.path / "model" / CONFIG_FILE)
    assert {"identity", "slices", "run"} & set(config) == set()
    assert config["training"] == {"batch": 8, "kimg": 1.0}
    everything = b"".join(p.read_bytes() for p in package.path.rglob("*") if p.is_file())
    for word in (SECRET, "Patient_", "4711", "of-this-run", str(sources.model)):
        assert word.encode() not in everything, word
    assert package.certificate["model"]["weights"]["sha256"] == sha256_file(sources.model / WEIGHTS)


def test_the_card_has_front_matter_and_every_section(package: Released) -> None:
    text = (package.path / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["license"] == "cc-by-4.0"
    assert fields["library_name"] == "understudy-mri"
    assert "pip install understudy-mri" in body
    assert "stylegan2" in fields["tags"]
    asked = package.certificate["white_box"]
    assert f"AUC {asked['auc']:.2f} (95 % interval by patient {asked['low']:.2f} to {asked['high']:.2f}" in body
    for heading in ("Intended use", "How to load and sample", "Training data", "Recipe", "Evaluation", "Limits"):
        assert f"## {heading}" in body
    assert "not measured" in body


def test_the_card_shows_dice_where_a_study_measured_it(sources: Sources, tmp_path: Path) -> None:
    row = {"label": "Synthetic (g), unet", "relative_dice": 0.91, "low": 0.8, "high": 1.0, "missed": 1, "present": 9}
    told = {"baseline_dice": 0.8, "patients": 9, "repeats": 3, "evidence": "weak", "comparisons": [row]}
    done = release(sources, agreed(), tmp_path / "net", evaluation=told)
    text = (done.path / "README.md").read_text()
    assert "| Synthetic (g), unet | 91 % | 80 % to 100 % | 1 of 9 |" in text
    cards = pytest.importorskip("huggingface_hub", reason="reads the card as Hugging Face does")
    results = cards.ModelCard(text).data.eval_results
    assert [r.metric_value for r in results] == [0.91]


# --- tampering ------------------------------------------------------------------------------------------------------


def _copy(package: Released, tmp_path: Path, name: str = "copy") -> Path:
    return Path(shutil.copytree(package.path, tmp_path / name))


def test_one_byte_of_the_weights(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    path = folder / "model" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert any("was changed" in p for p in verify(folder).problems)
    write_sums(folder)  # new hashes: the certificate and the membership inference still tell
    said = " ".join(verify(folder).problems)
    assert "weights" in said
    assert "certified" in said
    assert "membership inference" in said
    with pytest.raises(UnderstudyError, match="certificate"):
        generator_in(folder)


def test_weights_of_another_training_under_a_new_certificate(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    shutil.copyfile(trained(tmp_path / "other", seed=9) / WEIGHTS, folder / "model" / WEIGHTS)
    said = read_json(folder / "release.json")
    said["model"]["weights"]["sha256"] = sha256_file(folder / "model" / WEIGHTS)
    write_json(folder / "release.json", said)
    write_sums(folder)
    problems = verify(folder).problems
    assert any("membership inference" in p for p in problems)
    assert any("model card" in p for p in problems)


@pytest.mark.parametrize("how", ["metadata", "tensor", "behind"])
def test_nothing_hides_in_the_file_of_weights(sources: Sources, package: Released, tmp_path: Path, how: str) -> None:
    folder = _copy(package, tmp_path)
    path = folder / "model" / WEIGHTS
    weights = safetensors.torch.load_file(path)
    if how == "metadata":
        safetensors.torch.save_file(weights, path, {"trained_on": SECRET})
        real = [sources.audited.training]
        found = scan(folder, package.certificate, real, Words(secrets_of(real)))
        assert found.findings == [f"model/{WEIGHTS}: metadata (1 fields)"]
    elif how == "tensor":
        pixels = torch.from_numpy(sources.audited.training.read([0])[0])
        safetensors.torch.save_file({**weights, "one_more": pixels}, path)
    else:
        path.write_bytes(path.read_bytes() + SECRET.encode())
    config, said = read_json(folder / "model" / CONFIG_FILE), read_json(folder / "release.json")
    write_json(folder / "model" / CONFIG_FILE, {**config, "sha256": {WEIGHTS: sha256_file(path)}})
    said["model"] |= {"config_sha256": sha256_file(folder / "model" / CONFIG_FILE)}
    said["model"]["weights"]["sha256"] = sha256_file(path)
    write_json(folder / "release.json", said)
    write_sums(folder)
    expected = {"metadata": "holds metadata", "tensor": "cannot be loaded", "behind": "cannot be"}
    assert any(expected[how] in p for p in verify(folder).problems)


def test_extra_files_other_audits_and_nicer_numbers(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    (folder / "model" / DISCRIMINATOR).write_bytes(b"0")
    (folder / "samples.png").unlink()
    numbers = read_json(folder / "audit" / "audit.json")
    numbers["membership"]["auc"] = 0.5 + numbers["membership"]["auc"] / 10
    write_json(folder / "audit" / "audit.json", numbers)
    said = " ".join(verify(folder).problems)
    assert f"model/{DISCRIMINATOR} does not belong" in said
    assert "samples.png is missing" in said
    assert "audit is not the one" in said
    assert "another membership inference" in said


def test_a_plug_in_in_the_configuration_is_not_loaded(package: Released, tmp_path: Path) -> None:
    folder = _copy(package, tmp_path)
    config = read_json(folder / "model" / CONFIG_FILE)
    write_json(folder / "model" / CONFIG_FILE, {**config, "plugin": "antigravity"})
    write_sums(folder)
    assert any("other fields" in p for p in verify(folder).problems)
    assert "antigravity" not in sys.modules
    with pytest.raises(UnderstudyError, match="certificate"):
        generator_in(folder)


# --- the gate -------------------------------------------------------------------------------------------------------


def _audit_with(sources: Sources, tmp_path: Path, **membership: Any) -> Audited:
    folder = Path(shutil.copytree(sources.audited.audit, tmp_path / "audit"))
    numbers = read_json(folder / "audit.json")
    numbers["membership"] = {**numbers["membership"], **membership} if membership else None
    write_json(folder / "audit.json", numbers)
    return replace(sources.audited, audit=folder)


@pytest.mark.parametrize(
    ("membership", "words"),
    [
        ({}, "no membership inference"),
        ({"weights": {}}, "other weights"),
        ({"weights": {WEIGHTS: "0" * 64}}, "other weights"),
        ({"auc": 0.3}, "done again"),
    ],
)
def test_no_white_box_check_of_exactly_these_weights(
    sources: Sources, tmp_path: Path, membership: dict[str, Any], words: str
) -> None:
    audited = _audit_with(sources, tmp_path, **membership)
    for override in (None, "the board said so"):  # nothing overrides this
        with pytest.raises(UnderstudyError, match=words):
            release(sources._replace(audited=audited), agreed(), tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


def test_samples_of_other_weights_and_other_things_than_generators(sources: Sources, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", seed=9)
    with pytest.raises(UnderstudyError, match="not samples"):
        release(sources._replace(model=other), agreed(), tmp_path / "out")
    bare = Path(shutil.copytree(sources.model, tmp_path / "bare"))
    (bare / DISCRIMINATOR).unlink()
    with pytest.raises(UnderstudyError, match="discriminator"):
        release(sources._replace(model=bare), agreed(), tmp_path / "out")
    config = read_json(bare / CONFIG_FILE)
    write_json(bare / CONFIG_FILE, {**config, "plugin": {"name": "mine"}})
    with pytest.raises(UnderstudyError, match="plug-in"):
        release(sources._replace(model=bare), agreed(), tmp_path / "out")


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        (agreed(most_auc=None), "no highest AUC"),
        (agreed(most_auc=0.5), "may be as high as"),
        (decision(thresholds=agreed().thresholds), "nothing can be taken out of weights"),
        (agreed(quantile=0.99), "0.99 was agreed on"),
    ],
)
def test_what_was_not_agreed_keeps_the_gate_shut(
    sources: Sources, tmp_path: Path, signed: Decision, words: str
) -> None:
    with pytest.raises(UnderstudyError, match=words):
        release(sources, signed, tmp_path / "out")
    with pytest.raises(UnderstudyError, match="refuse"):
        release(sources, decision(decision="refuse"), tmp_path / "out", override="we need it now")


def test_weights_that_give_patients_away_go_only_by_override_and_stamped(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = set(sources.audited.training.rows(split="train").tolist())

    class Telltale(MembershipScores):
        def __call__(self, slices: SliceSet, rows: Any) -> Any:
            return np.array([float(int(r) in known) + 0.01 * (int(r) % 7) for r in rows]), "score"

    monkeypatch.setattr(gate_module, "MembershipScores", Telltale)
    real, samples = sources.audited.training, sources.audited.synthetic
    audit(real, real, samples, CONFIG, membership_score=Telltale(sources.model)).save(tmp_path / "audit")
    told = sources._replace(audited=replace(sources.audited, audit=tmp_path / "audit"))
    with pytest.raises(UnderstudyError, match="AUC"):
        release(told, agreed(most_auc=1.0), tmp_path / "out")
    done = release(told, agreed(most_auc=1.0), tmp_path / "out", "the board said so")
    for name in ("README.md", "evidence.html", "ro-crate-metadata.json", "release.json", "decision.json"):
        assert "the board said so" in (done.path / name).read_text(), name
    found = verify(done.path)
    assert found.problems == []
    assert "the board said so" in found.override
    hidden = (done.path / "README.md").read_text().replace("RELEASED AGAINST", "Released with")
    (done.path / "README.md").write_text(hidden)
    write_sums(done.path)
    assert any("hides" in p for p in verify(done.path).problems)
    said = json.loads((done.path / "release.json").read_text())
    (done.path / "release.json").write_text(json.dumps({**said, "override": None}))
    write_sums(done.path)
    assert any("speaks against" in p for p in verify(done.path).problems)
