"""An exported folder says what it is: every command that takes a folder reads it back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.exchange.description import DESCRIPTION
from understudy.exchange.export import export_images, export_nnunet
from understudy.exchange.pixels import Target
from understudy.exchange.read import open_images, read_folder
from understudy.exchange.spec import FolderSpec
from understudy.release.content import write_layout
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter

CHANNELS = ("T1w", "T1wGd", "T2/FLAIR mix", "t2 flair_mix", "Seg", "κ")
CLASSES = (BACKGROUND, LabelClass("core/necrosis", 7, 85), LabelClass("necrosis", 3, 170), LabelClass("a b", 1, 255))
PATIENTS = ("TCGA/CS 4941", "TCGA_CS_4941", "x")
RNG = np.random.default_rng(0)


def real_set(
    path: Path, channels: tuple[str, ...] = CHANNELS, classes: tuple[LabelClass, ...] = CLASSES, edge: int = 16
) -> SliceSet:
    """Two slices of each patient; ids of the first two are the same name of a file."""
    writer = SliceWriter(path, channels, classes, edge, (1.5, 1.5, 6.0), ("P", "L"))
    rows: list[dict[str, Any]] = [
        {"id": f"{p}/{z}", "subject": p, "site": f"s{i}", "z": z, "split": "test" if i == 2 else "train"}
        for i, p in enumerate(PATIENTS) for z in range(2)
    ]  # fmt: skip
    images = RNG.integers(0, 256, (len(rows), len(channels), edge, edge), np.uint8)
    labels = RNG.integers(0, len(classes), (len(rows), edge, edge)).astype(np.uint8)
    writer.append(images, labels, rows)
    return writer.close()


def by_id(slices: SliceSet) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    rows = np.argsort(slices.index["id"].to_numpy())
    columns = [c for c in ("id", "subject", "site", "z", "split") if c in slices.index]
    return (*slices.read(rows), slices.index.iloc[rows][columns].to_dict(orient="records"))


def same(found: SliceSet, wanted: SliceSet) -> None:
    assert (found.channels, found.classes) == (wanted.channels, wanted.classes)
    assert (found.resolution, found.spacing, found.axes) == (wanted.resolution, wanted.spacing, wanted.axes)
    (images, labels, rows), (own, drawn, known) = by_id(found), by_id(wanted)
    np.testing.assert_array_equal(images, own)
    np.testing.assert_array_equal(labels, drawn)
    assert rows == known


@pytest.mark.parametrize("export", [export_images, export_nnunet])
def test_an_export_is_read_back_as_it_was(tmp_path: Path, export: Any) -> None:
    wanted = real_set(tmp_path / "set")
    export(wanted, tmp_path / "out", **({"folds": 2} if export is export_nnunet else {}), progress=False)
    opened = open_images(tmp_path / "out", tmp_path / "read")
    same(opened.slices, wanted)
    assert opened.patients is not None
    assert opened.patients.found == "set"
    same(read_folder(tmp_path / "out", FolderSpec(), tmp_path / "again", progress=False), wanted)
    target = Target(CHANNELS[::-1], CLASSES, 16)
    turned = read_folder(tmp_path / "out", FolderSpec(), tmp_path / "turned", target, progress=False)
    np.testing.assert_array_equal(by_id(turned)[0], by_id(wanted)[0][:, ::-1])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.text("abT1w/ _-é.", min_size=1, max_size=5), min_size=1, max_size=4, unique_by=str.lower),
    st.lists(st.integers(1, 255), min_size=0, max_size=4, unique=True),
)
def test_any_names_and_codes_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, channels: list[str], codes: list[int]
) -> None:
    work = tmp_path_factory.mktemp("names")
    classes = (BACKGROUND, *(LabelClass(f"c/{i}", i + 1, code) for i, code in enumerate(sorted(codes))))
    wanted = real_set(work / "set", tuple(channels), classes, 4)
    export_images(wanted, work / "out", progress=False)
    same(open_images(work / "out", work / "read").slices, wanted)


def test_what_the_user_says_takes_precedence(tmp_path: Path) -> None:
    wanted = real_set(tmp_path / "set")
    export_images(wanted, tmp_path / "out", progress=False)
    spec = FolderSpec(channels=["κ", "T1w"], codes={"one": 85, "two": 170, "three": 255})
    found = open_images(tmp_path / "out", tmp_path / "read", spec).slices
    assert found.channels == ("κ", "T1w")
    assert found.class_names == ("one", "two", "three")
    np.testing.assert_array_equal(by_id(found)[0], by_id(wanted)[0][:, [5, 0]])
    np.testing.assert_array_equal(by_id(found)[1], by_id(wanted)[1])


def test_another_description_is_another_folder(tmp_path: Path) -> None:
    export_images(real_set(tmp_path / "set"), tmp_path / "out", progress=False)
    read_folder(tmp_path / "out", FolderSpec(), tmp_path / "read", progress=False)
    said = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    said["slices"] = {}
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(UnderstudyError, match="other slices"):
        read_folder(tmp_path / "out", FolderSpec(), tmp_path / "read", progress=False)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "understudy-images-9"}'])
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    export_images(real_set(tmp_path / "set"), tmp_path / "out", progress=False)
    (tmp_path / "out" / DESCRIPTION).write_text(text)
    with pytest.raises(UnderstudyError) as caught:
        open_images(tmp_path / "out", tmp_path / "read")
    assert caught.value.where == str(tmp_path / "out" / DESCRIPTION)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("column", "value"),
    [("subject", 5), ("subject", 1.5), ("id", 7), ("site", True), ("split", []), ("z", "three"), ("x", 1)],
)
def test_a_column_of_another_type_is_named(tmp_path: Path, column: str, value: object) -> None:
    export_images(real_set(tmp_path / "set"), tmp_path / "out", progress=False)
    said = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    next(iter(said["slices"].values()))[column] = value
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(UnderstudyError, match=column) as caught:
        open_images(tmp_path / "out", tmp_path / "read")
    assert caught.value.where == str(tmp_path / "out" / DESCRIPTION)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("axes", ["L", "L"]), ("axes", ["L", "R"]), ("axes", ["X", "P"]), ("resolution", -1), ("resolution", True),
        ("code", 300), ("code", -1), ("value", True), ("class", ""), ("class", "background"), ("id", "twice"),
    ],
)  # fmt: skip
def test_what_no_set_can_be_is_refused_before_anything_is_written(tmp_path: Path, field: str, value: object) -> None:
    export_images(real_set(tmp_path / "set"), tmp_path / "out", progress=False)
    said = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    if field == "id":
        for row in list(said["slices"].values())[:2]:
            row["id"] = value
    elif field in ("code", "value", "class"):
        said["classes"][1]["name" if field == "class" else field] = value
    else:
        said[field] = value
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(UnderstudyError) as caught:
        read_folder(tmp_path / "out", FolderSpec(), tmp_path / "read", progress=False)
    assert caught.value.where == str(tmp_path / "out" / DESCRIPTION)
    assert not (tmp_path / "read").exists()


@pytest.mark.parametrize("layout", ["png", "nnunet", "nifti", "webdataset"])
def test_released_data_describe_themselves_and_name_no_patient(tmp_path: Path, layout: str) -> None:
    """The data folder of a package is read without its certificate; a package holds a set without patients."""
    real = real_set(tmp_path / "set", ("T1w", "FLAIR"))
    writer = SliceWriter(tmp_path / "clean", real.channels, real.classes, 16, real.spacing, real.axes)
    images, labels = real.read(slice(None))
    writer.append(images, labels, [{"id": f"made{i}", "generator": "g", "seed": i} for i in range(len(real))])
    clean = writer.close()
    (tmp_path / "data").mkdir()
    write_layout(clean, layout, tmp_path / "data")
    assert json.loads((tmp_path / "data" / DESCRIPTION).read_text())["slices"] == {}
    found = open_images(tmp_path / "data", tmp_path / "read", real=False).slices
    assert (found.channels, found.classes) == (clean.channels, clean.classes)
    np.testing.assert_array_equal(by_id(found)[0], images)
    np.testing.assert_array_equal(by_id(found)[1], labels)
