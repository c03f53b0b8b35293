"""`understudy audit` and `screen` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from made import new_slices, real_set, split_of, synthetic_set
from typer.testing import CliRunner

from understudy import cli


def run(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(cli.app, [*map(str, arguments), "--quiet", "--device", "cpu"])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout


def test_a_screened_set_and_what_is_written_beside_it_name_no_path(tmp_path: Path) -> None:
    real = real_set(tmp_path / "real", split_of(8, 12))
    images, labels = new_slices(60)
    images[:3], labels[:3] = real.read(real.rows(subject="T1")[:3])
    made = synthetic_set(tmp_path / "made", images, labels).path
    given = ["--training", real.path]
    code, text = run("audit", *given, "--synthetic", made, "--out", tmp_path / "a", "--json")
    slices = json.loads(text)["slices"]
    assert (code, len(slices)) == (1, 60)
    assert all(s["flagged"] for s in slices[:3])
    least = min(s["copy.score"] for s in slices[:3])  # copies, to the last digit
    assert max(s["copy.score"] or -1 for s in slices[3:]) < least
    assert '"T1"' not in text  # whose slices they are
    before = sorted((tmp_path / "a").rglob("*"))
    code, text = run("screen", made, "--audit", tmp_path / "a", *given, "--out", tmp_path / "kept", "--json")
    record = json.loads(text)
    assert sorted((tmp_path / "a").rglob("*")) == before  # it may be a job of a study, which would count as damaged
    assert (code, record["before"]["kind"], record["after"]["kind"]) == (0, "copies_found", "no_sign")
    assert (record["audit_before"], record["audit_after"]) == ("a", "kept-audit")
    shared = [*(tmp_path / "kept").rglob("*.json"), *(tmp_path / "kept-audit").glob("*.*")]
    assert len(shared) >= 4
    assert not any(str(tmp_path).encode() in p.read_bytes() for p in shared)
