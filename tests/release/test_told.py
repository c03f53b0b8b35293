"""What whoever holds slices can learn from a package of whether they were trained on: attacks, each with its control.

Every attack is first made on what the audit itself keeps, where it has to succeed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_release import CONFIG, made, released

from understudy.errors import UnderstudyError
from understudy.exchange.description import certificate_of
from understudy.io.files import read_json, sha256_json, write_json
from understudy.memorization import screen
from understudy.memorization.perform import audit
from understudy.memorization.shared import rounded
from understudy.release.content import LAYOUTS, read_back
from understudy.slices import SliceSet

Packages = dict[str, Path]
KINDS = [*LAYOUTS, "model"]


@pytest.fixture(scope="module")
def real(packages: Packages) -> SliceSet:
    return SliceSet.open(packages["png"].parent / "inputs" / "real")


@pytest.fixture(scope="module")
def audited(packages: Packages) -> Path:
    return packages["png"].parent / "inputs" / "audit"


def _bytes(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def _hashes(real: SliceSet) -> Iterator[bytes]:
    """What a holder of the training set can hash: the set, its rows, each slice, channel and patient."""
    train = real.rows(split="train")
    texts = [real.content_hash, sha256_json(train.tolist()), sha256_json(list(range(len(real))))]
    images, labels = real.read(train)
    parts = [real.index["id"][row].encode() for row in train] + [s.encode() for s in real.index["subject"].unique()]
    for image, marks in zip(images, labels, strict=True):
        parts += [image.tobytes(), image.tobytes() + marks.tobytes(), *(c.tobytes() for c in image), marks.tobytes()]
    digests = [bytes.fromhex(text) for text in texts]
    digests += [hashlib.new(kind, part).digest() for part in parts for kind in ("md5", "sha1", "sha256")]
    for digest in digests:
        yield from (digest, digest.hex().encode())


@pytest.mark.parametrize("layout", KINDS)
def test_no_hash_of_a_training_set_slice_or_patient(
    packages: Packages, real: SliceSet, audited: Path, layout: str
) -> None:
    assert any(digest in _bytes(audited) for digest in _hashes(real))
    everything = _bytes(packages[layout])
    assert not any(digest in everything for digest in _hashes(real))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        yield from (n for inner in value.values() for n in _numbers(inner))
    elif isinstance(value, list):
        yield from (n for inner in value for n in _numbers(inner))
    elif isinstance(value, float):
        yield value


def _lists(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, dict | list):
        if isinstance(value, list) and len(value) > 3 and all(isinstance(x, int | float) for x in value):
            yield value
        yield from (x for inner in (value.values() if isinstance(value, dict) else value) for x in _lists(inner))


@pytest.mark.parametrize("layout", KINDS)
def test_no_distribution_of_scores_and_no_number_that_only_the_training_set_gives(
    packages: Packages, audited: Path, layout: str
) -> None:
    kept = read_json(audited / "audit.json")
    assert any(_lists(kept))
    assert any(n != rounded(n) for n in _numbers(kept))
    for name in ("audit/audit.json", "release.json", "decision.json"):
        told = json.loads((packages[layout] / name).read_text())
        assert not any(_lists(told)), name
        measured = {k: v for k, v in told.items() if k != "data"}
        assert [n for n in _numbers(measured) if n != rounded(n)] == [], name
    page = (packages[layout] / "evidence.html").read_text()
    assert "nearness to a training slice" not in page  # the histograms of a report


def _scores(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[n, m]: correlation of each image with each known one, all channels together, as the audit compares them."""
    a, b = (x.reshape(len(x), -1).astype(float) for x in (images, known))
    a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (a, b))
    return a @ b.T / a.shape[1]


def _auc(members: np.ndarray, others: np.ndarray) -> float:
    greater, equal = members[:, None] > others, members[:, None] == others
    return float((greater + 0.5 * equal).mean())


def _advantage(table: pd.DataFrame, images: np.ndarray, members: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """By column: how well it tells which of two candidate sets was trained on (0 not at all, 1 always).

    Slices that lie nearest to the true training set are those that the column ranks first, or last. Both candidate
    sets are tried, for what the pixels give away by themselves (large lesions are alike) is the same for both.
    """
    near = [_scores(images, known).max(1) for known in (members, others)]
    found = {}
    for name in table:
        column = pd.to_numeric(table[name], errors="coerce")
        if column.nunique() > 1:
            ranks = [abs(pd.Series(x).corr(column, method="spearman")) for x in near]
            found[str(name)] = ranks[0] - ranks[1]
    return found


def test_no_column_tells_which_of_two_sets_was_trained_on(tmp_path: Path) -> None:
    split = made.split_of(10, 12)
    real = made.real_set(tmp_path / "real", {f"Patient_{n}": s for n, s in split.items()})
    other = made.real_set(tmp_path / "other", {f"Other_{n}": s for n, s in split.items()}, seed=99)
    members, others = (s.read(s.rows(split="train"))[0] for s in (real, other))
    images, labels = made.new_slices(150)
    synthetic = made.synthetic_set(tmp_path / "synthetic", images, labels)
    audit(real, real, synthetic, CONFIG).save(tmp_path / "audit")
    inputs = {"real": real.path, "synthetic": synthetic.path, "audit": tmp_path / "audit"}
    kept = pd.read_parquet(tmp_path / "audit" / "private" / "neighbours.parquet")
    assert _advantage(kept, images, members, others)["stacked.score"] > 0.3  # the attack works on what stays private

    done = released(inputs, tmp_path / "out")
    manifest, told = pd.read_parquet(done.path / "manifest.parquet"), certificate_of(done.path)["data"]
    assert set(manifest) == {"id", "generator", "seed", "sha256", "area.lesion"}
    pixels = np.stack([image for _, image, _ in read_back(done.path, told)])
    manifest["place"] = range(len(manifest))  # the order of the slices is a column, too
    assert max(_advantage(manifest, pixels, members, others).values()) < 0.25
    near, far = (_scores(pixels, known).max(1) for known in (members, others))
    assert abs(_auc(near, far) - 0.5) < 0.2  # and of this generator, which never saw them, the pixels tell nothing


def test_the_documents_say_what_can_still_be_learned(packages: Packages) -> None:
    assert "What can still be learned" in (packages["sliceset"] / "DATASHEET.md").read_text()
    assert "can test them against the weights" in (packages["model"] / "README.md").read_text()


# --- what the audit's file states is not believed -------------------------------------------------------------------

EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "patients.hit": lambda n: n["patients"].update(hit=0),
    "flags.rate": lambda n: n["flags"].update(rate=n["flags"]["rate"] / 2),
    "flags.certain": lambda n: n["flags"].update(certain=0),
    "controls.detection.0.rate": lambda n: n["controls"]["detection"][0].update(rate=0.95),
    "controls.false_alarms.rate": lambda n: n["controls"]["false_alarms"].update(rate=0.001),
    "rule.text": lambda n: n["rule"].update(text="all slices are fine"),
    "sets.training.patients": lambda n: n["sets"]["training"].update(patients=400),
    "exposed.count": lambda n: n["exposed"].update(count=n["exposed"]["count"] + 1),
    "null.slices": lambda n: n["null"].update(slices=5000),
    "verdict": lambda n: n["verdict"].update(kind="no_sign"),
}


@pytest.fixture(scope="module")
def once() -> Callable[[str], Any]:
    """A function of the audit that is done again, worked out once: the slices are the same."""
    done: dict[str, Any] = {}

    def cached(name: str) -> Any:
        real = getattr(screen, name)
        return lambda *args, **more: done[name] if name in done else done.setdefault(name, real(*args, **more))

    return cached


@pytest.mark.parametrize("place", EDITS)
def test_edited_numbers_of_an_audit_are_not_released(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: Callable[[str], Any], place: str
) -> None:
    root = packages["png"].parent / "inputs"
    folder = Path(shutil.copytree(root / "audit", tmp_path / "audit"))
    numbers = read_json(folder / "audit.json")
    EDITS[place](numbers)
    write_json(folder / "audit.json", numbers)
    for name in ("compare", "judge"):
        monkeypatch.setattr(screen, name, once(name))
    inputs = {"real": root / "real", "synthetic": root / "synthetic", "audit": folder}
    with pytest.raises(UnderstudyError, match=re.escape(f"states another `{place}`")):
        released(inputs, tmp_path / "out", override="the board said so")
    assert not (tmp_path / "out").exists()


def test_words_of_an_audit_are_written_anew(packages: Packages, tmp_path: Path) -> None:
    root = packages["png"].parent / "inputs"
    folder = Path(shutil.copytree(root / "audit", tmp_path / "audit"))
    numbers = read_json(folder / "audit.json")
    headline = numbers["verdict"]["headline"]
    numbers["verdict"] = {**numbers["verdict"], "headline": "All is well."}
    write_json(folder / "audit.json", {**numbers, "membership": {"words": "The weights are safe.", "auc": 0.5}})
    (folder / "audit.md").write_text("# All is well.\n")
    done = released({"real": root / "real", "synthetic": root / "synthetic", "audit": folder}, tmp_path / "out")
    everything = _bytes(done.path)
    assert headline.encode() in everything
    assert b"All is well." not in everything
    assert b"The weights are safe." not in everything
