"""A package's metadata, read by the libraries that others read it by."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mlcroissant
import pandas as pd
import pytest
from made_release import ABOUT, make_inputs, released

from understudy.io.files import read_json, write_json
from understudy.release.allowed import DOCUMENTS
from understudy.release.content import LAYOUTS
from understudy.release.documents import croissant, ro_crate
from understudy.release.package import Released

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")  # of theirs


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Released:
    root = tmp_path_factory.mktemp("metadata")
    return released(make_inputs(root), root / "package")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mlcroissant_finds_nothing_to_complain_about_and_reads_the_manifest(
    package: Released, tmp_path: Path, layout: str
) -> None:
    manifest = pd.read_parquet(package.path / "manifest.parquet")
    shutil.copyfile(package.path / "manifest.parquet", tmp_path / "manifest.parquet")
    said = {**package.certificate, "layout": layout}
    whole = read_json(package.path / "croissant.json")
    made = croissant(ABOUT, said, manifest)
    assert layout != "sliceset" or made == whole
    write_json(tmp_path / "croissant.json", made)
    dataset = mlcroissant.Dataset(str(tmp_path / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    for row, record in zip(manifest.to_dict("records"), dataset.records("slices"), strict=True):
        told = {k.removeprefix("slices/"): v for k, v in record.items()}
        assert {k: v.decode() if isinstance(v, bytes) else v for k, v in told.items()} == row


def test_mlcroissant_refuses_another_manifest(package: Released, tmp_path: Path) -> None:
    shutil.copyfile(package.path / "croissant.json", tmp_path / "croissant.json")
    pd.read_parquet(package.path / "manifest.parquet")[1:].to_parquet(tmp_path / "manifest.parquet")
    dataset = mlcroissant.Dataset(str(tmp_path / "croissant.json"))
    with pytest.raises(mlcroissant.GenerationError) as caught:
        next(iter(dataset.records("slices")))
    assert "Hash" in str(caught.value.__cause__)


def test_every_entity_of_the_crate_is_there_once_and_what_is_named_is_described(package: Released) -> None:
    about = ABOUT.model_copy(update={"affiliation": "A b", "publisher_url": "https://example.org"})
    for crate in (
        read_json(package.path / "ro-crate-metadata.json"),
        ro_crate(about, package.certificate, DOCUMENTS, {"data/": "slices"}),
    ):
        entities: list[dict[str, Any]] = crate["@graph"]
        ids = [e["@id"] for e in entities]
        assert len(set(ids)) == len(ids)
        named = {r["@id"] for e in entities for v in e.values() for r in _references(v)}
        assert {n for n in named if not n.startswith("https://w3id.org/")} <= set(ids)
        assert all((package.path / e["@id"]).is_file() for e in entities if e["@type"] == "File")


def _references(value: Any) -> list[dict[str, str]]:
    listed = value if isinstance(value, list) else [value]
    return [v for v in listed if isinstance(v, dict) and set(v) == {"@id"}]


def test_rocrate_validator_finds_nothing_to_complain_about(package: Released) -> None:
    command = shutil.which("rocrate-validator")
    if command is None:
        pytest.skip("no rocrate-validator: pip install roc-validator in an environment of its own, put it on PATH")
    done = subprocess.run(
        [command, "-y", "--disable-color", "validate", "-p", "ro-crate-1.1", "--no-paging", str(package.path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "URLError" in done.stdout + done.stderr:
        pytest.skip("rocrate-validator fetches the context of RO-Crate 1.1 from https://w3id.org: no network here")
    assert done.returncode == 0, done.stdout + done.stderr
