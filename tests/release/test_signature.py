"""Signed packages: the right key, another one, a package that was rewritten whole, and no program to sign with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from made_release import released
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.exchange.description import certificate_of
from understudy.release.content import write_sums
from understudy.release.scan import scan
from understudy.release.signature import problem_of, sign
from understudy.release.verify import verify
from understudy.release.words import Words

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
UNSIGNED, SIGNED = "unchanged since its own list", "as the holder of this key signed it"


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, "-C", "Patient_T1@host"], check=True)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture(scope="module")
def package(packages: dict[str, Path], key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "heads"
    shutil.copytree(packages["model"], folder)  # the others are of six slices, which `verify` notices
    sign(folder, key)
    return folder


def test_signed_when_released(packages: dict[str, Path], key: Path, tmp_path: Path) -> None:
    root = packages["png"].parent / "inputs"
    inputs = {name: root / name for name in ("real", "synthetic", "audit")}
    done = released(inputs, tmp_path / "out", key=key)
    found = verify(done.path, key=key.with_suffix(".pub"))
    assert (found.problems, found.signed, found.as_dict()["intact"]) == ([], True, True)
    with pytest.raises(UnderstudyError, match="cannot sign"):
        released(inputs, tmp_path / "other", key=packages["png"] / "LICENSE")
    assert not (tmp_path / "other").exists()


def test_what_verify_says_with_and_without_a_key(package: Path, key: Path, tmp_path: Path) -> None:
    public = str(key.with_suffix(".pub"))
    said = CliRunner().invoke(app, ["verify", str(package), "--key", public])
    assert (said.exit_code, SIGNED in said.output) == (0, True)
    said = CliRunner().invoke(app, ["verify", str(package)])
    assert (said.exit_code, UNSIGNED in said.output, "intact" in said.output) == (0, True, False)
    assert verify(package).as_dict()["intact"] is False
    other = str(make_key(tmp_path / "other").with_suffix(".pub"))
    said = CliRunner().invoke(app, ["verify", str(package), "--key", other])
    assert (said.exit_code, "not signed with this key" in said.output) == (1, True)


def test_a_package_that_was_rewritten_whole(package: Path, key: Path, tmp_path: Path) -> None:
    """Without a key it passes; with one it does not, whatever the forger signs it with."""
    folder, public = Path(shutil.copytree(package, tmp_path / "heads")), key.with_suffix(".pub")
    (folder / "LICENSE").write_text("do as you like")
    write_sums(folder)
    assert verify(folder).problems == []
    assert "not signed with this key" in verify(folder, key=public).problems[0]
    (folder / "SHA256SUMS.sig").unlink()
    assert "it is not signed" in verify(folder, key=public).problems[0]
    sign(folder, make_key(tmp_path / "forger"))
    assert "not signed with this key" in verify(folder, key=public).problems[0]
    (folder / "SHA256SUMS.sig").unlink()  # a signature by the right key, for another purpose
    subprocess.run(["ssh-keygen", "-Y", "sign", "-f", key, "-n", "file", folder / "SHA256SUMS"], check=True)
    assert "not signed with this key" in verify(folder, key=public).problems[0]


def test_nothing_hides_in_a_signature(package: Path, tmp_path: Path) -> None:
    assert scan(package, certificate_of(package), [], Words({})).findings == []
    folder = Path(shutil.copytree(package, tmp_path / "heads"))
    with open(folder / "SHA256SUMS.sig", "a") as file:
        file.write("Patient_T1\n")
    assert scan(folder, certificate_of(folder), [], Words({})).findings == ["SHA256SUMS.sig: more than a signature"]
    assert verify(folder).problems == ["SHA256SUMS.sig is no signature"]


def test_an_empty_folder_and_a_root_hash_that_is_none(package: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "heads"))
    (folder / "Patient_T1").mkdir()
    root = verify(folder).root
    assert verify(folder, root).problems == ["Patient_T1 is an empty folder, which does not belong to the package"]
    for given in ("", root[:-1]):
        with pytest.raises(UnderstudyError, match="no root hash"):
            verify(folder, given)


def test_keys_that_are_none_and_a_missing_program(
    package: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = key.with_suffix(".pub").read_text()
    for content in (b"", b"no key\n", key.read_bytes(), public.encode("utf-16")):  # the last as PowerShell writes it
        (tmp_path / "x.pub").write_bytes(content)
        with pytest.raises(UnderstudyError, match=r"no public key|cannot be read"):
            problem_of(package, tmp_path / "x.pub")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnderstudyError, match="ssh-keygen, which is not there"):
        problem_of(package, key.with_suffix(".pub"))
