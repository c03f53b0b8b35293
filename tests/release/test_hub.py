"""A data set of the hub: read back equal from Parquet, by mlcroissant and (with the package) by `datasets`."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import understudy.release.hub as hub
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.release.content import SUMS, content_root, read_back, slice_hash
from understudy.release.hub import export_huggingface
from understudy.release.package import Released
from understudy.release.words import Words, secrets_of
from understudy.slices import SliceSet

Exportable = tuple[Released, dict[str, Path]]


@pytest.fixture(scope="module")
def exported(exportable: Exportable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "heads"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "ROWS", 40)  # some fifty slices: two files
        export_huggingface(exportable[0].path, out, progress=False)
    return out


def pixels(picture: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture["bytes"])))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_rows_hold_the_slices_of_the_package_and_its_certificate_counts_them(
    exported: Path, exportable: Exportable
) -> None:
    names = [p.name for p in sorted((exported / "data").iterdir())]
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    said = json.loads((exported / "package" / "release.json").read_text())
    rows, codes = rows_of(exported), [c["code"] for c in said["data"]["classes"]]
    kept = {name: (image, labels) for name, image, labels in read_back(exportable[0].path, said["data"])}
    assert sorted(row["id"] for row in rows) == sorted(kept)
    for row in rows:
        image = np.stack([pixels(row[f"image.{name}"]) for name in said["data"]["channels"]])
        labels = np.searchsorted(codes, pixels(row["annotation"])).astype(np.uint8)
        np.testing.assert_array_equal(image, kept[row["id"]][0])
        np.testing.assert_array_equal(labels, kept[row["id"]][1])
        assert row["sha256"] == slice_hash(image, labels)
    table = pa.concat_tables(pq.read_table(p) for p in sorted((exported / "data").iterdir())).to_pandas()
    head = {k: said["data"][k] for k in ("channels", "classes", "resolution")}
    assert content_root(head, table.sort_values("id")) == said["content"]["root"]


def test_the_schema_says_which_columns_are_pictures(exported: Path) -> None:
    noted = pq.read_schema(exported / "data" / "train-00000-of-00002.parquet").metadata[b"huggingface"]
    features = json.loads(noted)["info"]["features"]
    pictures = {name for name, kind in features.items() if kind["_type"] == "Image"}
    assert pictures == {"image.T1w", "image.FLAIR", "annotation"}
    assert features["seed"] == {"dtype": "int64", "_type": "Value"}


def test_the_card_says_synthetic_and_where_the_data_is(exported: Path) -> None:
    _, front, text = (exported / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(front)
    assert "synthetic" in said["tags"]
    assert (said["license"], said["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    (files,) = said["configs"][0]["data_files"]
    assert (files["split"], len(list(exported.glob(files["path"])))) == ("train", 2)
    verdict = json.loads((exported / "package" / "release.json").read_text())["audit"]["verdict"]
    for sentence in (verdict["headline"], *verdict["limits"], "A. Author", "0 background, 255 lesion"):
        assert sentence in text


def test_mlcroissant_reads_the_pictures_and_the_rai_fields_are_the_packages(
    exported: Path, exportable: Exportable
) -> None:
    dataset = mlcroissant.Dataset(str(exported / "croissant.json"))
    assert [*dataset.metadata.ctx.issues.errors, *dataset.metadata.ctx.issues.warnings] == []
    found = list(dataset.records("slices"))
    wanted = {row["id"]: row for row in rows_of(exported)}
    assert len(found) == len(wanted) > 40
    for row in found:
        mine = wanted[row["slices/id"].decode()]
        np.testing.assert_array_equal(np.asarray(row["slices/annotation"]), pixels(mine["annotation"]))
        assert row["slices/sha256"].decode() == mine["sha256"]
    rai = [
        {k: v for k, v in json.loads((folder / "croissant.json").read_text()).items() if k.startswith("rai:")}
        for folder in (exported, exportable[0].path)
    ]
    assert rai[0] == rai[1]
    assert rai[0]["rai:hasSyntheticData"] is True


def test_datasets_reads_it_offline(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(str(exported), split="train", cache_dir=str(tmp_path))
    wanted = {row["id"]: row for row in rows_of(exported)}
    assert len(loaded) == len(wanted)
    for row in loaded:
        np.testing.assert_array_equal(np.asarray(row["image.T1w"]), pixels(wanted[row["id"]]["image.T1w"]))


def test_nothing_of_a_patient_goes_out(exported: Path, exportable: Exportable) -> None:
    done, inputs = exportable
    words = Words(secrets_of([SliceSet.open(inputs["real"])], [done.path, *inputs.values()]))
    schema = pq.read_schema(exported / "data" / "train-00000-of-00002.parquet")
    rows = [str({k: v for k, v in row.items() if not isinstance(v, dict)}) for row in rows_of(exported)]
    texts = [str(schema), str(schema.metadata), *rows]
    texts += [(exported / name).read_text() for name in ("README.md", "croissant.json", "CITATION.cff", "LICENSE")]
    assert words.found_in("of Patient_T1")
    assert [hit for text in texts for hit in words.found_in(text)] == []


def test_only_an_intact_package_of_slices_goes_to_a_hub(exportable: Exportable, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no released package"):
        export_huggingface(exportable[1]["synthetic"], tmp_path / "out", progress=False)
    shutil.copytree(exportable[0].path, tmp_path / "changed")
    (tmp_path / "changed" / "DATASHEET.md").write_text("another")
    shown = CliRunner().invoke(app, ["export", "huggingface", str(tmp_path / "changed"), str(tmp_path / "out")])
    assert "not intact" in str(shown.exception)
    assert not (tmp_path / "out").exists()


def test_a_package_that_was_rewritten_with_its_hashes_is_known_by_its_root(
    exportable: Exportable, tmp_path: Path
) -> None:
    root, changed = exportable[0].root, tmp_path / "changed"
    assert export_huggingface(exportable[0].path, tmp_path / "good", False, root=root).publisher_known
    shutil.copytree(exportable[0].path, changed)
    (changed / "DATASHEET.md").write_text("another")
    sums = changed / SUMS
    lines = sums.read_text().splitlines()
    mine = next(i for i, line in enumerate(lines) if line.endswith("DATASHEET.md"))
    lines[mine] = lines[mine].replace(lines[mine].split()[0], sha256_file(changed / "DATASHEET.md"))
    sums.write_text("\n".join(lines) + "\n")
    for command, out in (("huggingface", tmp_path / "hub"), ("dicom", tmp_path / "dicom")):
        words = ["export", command, str(changed), str(out)]
        refused = CliRunner().invoke(app, [*words, "--root", root])
        assert isinstance(refused.exception, UnderstudyError)
        assert "another package" in refused.exception.what
        assert not out.exists()
    said = CliRunner().invoke(app, ["export", "huggingface", str(changed), str(tmp_path / "hub"), "--json"])
    assert json.loads(said.stdout)["publisher_known"] is False
